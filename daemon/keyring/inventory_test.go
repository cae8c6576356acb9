package keyring

import "testing"

// TestParseLabel: an operator adopts only what is labelled as cmkd labels CMKs.
func TestParseLabel(t *testing.T) {
	t.Parallel()
	const id, multi = "6060503a-dc68-47bc-a517-a33278e39cab", "mrk-6060503adc6847bca517a33278e39cab"
	for _, c := range []struct {
		text    string
		keyID   string // "": none
		version int
	}{
		{Label(id, 1), id, 1},
		{Label(multi, 12), multi, 12},
		{Label(id, 1<<31-1), id, 1<<31 - 1},
		{Label(id, 1<<31), "", 0},
		{Label(id, 1<<63-1), "", 0},
		{Label(id, 0), "", 0},
		{Label(id, -1), "", 0},
		{"cmkd:" + id + ":01", "", 0},
		{"cmkd:" + id + ":+1", "", 0},
		{"cmkd:" + id + ":99999999999999999999", "", 0},
		{"cmkd:6060503A-DC68-47BC-A517-A33278E39CAB:1", "", 0},
		{"cmkd:" + id + ":1:1", "", 0},
		{"cmkd:" + id + ":", "", 0},
		{"other:" + id + ":1", "", 0},
		{Label("system-wrapping", 1), "", 0},
		{Label(ImportPrefix+id, 1), "", 0},
		{id, "", 0},
		{"", "", 0},
	} {
		keyID, version, ok := parseLabel(c.text)
		if ok != (c.keyID != "") || ok && (keyID != c.keyID || version != c.version) {
			t.Errorf("%q: %q, %d, %t", c.text, keyID, version, ok)
		}
	}
}
