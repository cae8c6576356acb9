package trust

import (
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keyring"
)

// TestParseStateKey: only labels that the daemon gives to the keys of heads
// count. A CMK must never.
func TestParseStateKey(t *testing.T) {
	t.Parallel()
	id := backends.KeyID{1, 2}
	const lineage = "aabbccddeeff00112233445566778899"
	for _, c := range []struct {
		label   string
		lineage string // "": none
		epoch   int
	}{
		{keyring.Label(keyring.StateKeyID, 1), id.String(), 1},
		{keyring.Label(keyring.StateKeyID+"-"+lineage, 2), lineage, 2},
		{keyring.Label(keyring.StateKeyID+"-"+lineage, 31), lineage, 31},
		{keyring.Label(keyring.StateKeyID, 2), "", 0},
		{keyring.Label(keyring.StateKeyID+"-"+lineage, 1), "", 0},
		{keyring.Label(keyring.StateKeyID+"-"+lineage, 0), "", 0},
		{keyring.Label(keyring.StateKeyID+"-"+lineage, -3), "", 0},
		{keyring.Label(keyring.StateKeyID+"x", 2), "", 0},
		{keyring.Label(keyring.StateKeyID+"-", 2), "", 0},
		{"cmkd:" + keyring.StateKeyID, "", 0},
		{"cmkd:" + keyring.StateKeyID + ":", "", 0},
		{keyring.Label("system-wrapping", 1), "", 0},
		{keyring.Label("6060503a-dc68-47bc-a517-a33278e39cab", 1), "", 0},
		{"", "", 0},
	} {
		k, ok := parseStateKey(backends.Object{ID: id, Label: c.label})
		if ok != (c.lineage != "") || ok && (k.lineage != c.lineage || k.epoch != c.epoch || k.id != id) {
			t.Errorf("%q: %+v, %t", c.label, k, ok)
		}
	}
}

// TestBackoff: what fails is tried again after a minute, then less and less often,
// and at least once an hour.
func TestBackoff(t *testing.T) {
	t.Parallel()
	var b keyring.Backoff
	now := time.Now()
	if !b.Over(now) {
		t.Error("what has not failed waits")
	}
	for _, minutes := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		b.Failed(now)
		if pause := time.Duration(minutes) * time.Minute; b.Over(now.Add(pause-1)) || !b.Over(now.Add(pause)) {
			t.Errorf("the pause is %s, want %s", b.Pause, pause)
		}
		now = now.Add(b.Pause)
	}
}
