package kms

import (
	"testing"

	"cmkd/backends"
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
		{label(stateKeyID, 1), id.String(), 1},
		{label(stateKeyID+"-"+lineage, 2), lineage, 2},
		{label(stateKeyID+"-"+lineage, 31), lineage, 31},
		{label(stateKeyID, 2), "", 0},
		{label(stateKeyID+"-"+lineage, 1), "", 0},
		{label(stateKeyID+"-"+lineage, 0), "", 0},
		{label(stateKeyID+"-"+lineage, -3), "", 0},
		{label(stateKeyID+"x", 2), "", 0},
		{label(stateKeyID+"-", 2), "", 0},
		{"cmkd:" + stateKeyID, "", 0},
		{"cmkd:" + stateKeyID + ":", "", 0},
		{label("system-wrapping", 1), "", 0},
		{label("6060503a-dc68-47bc-a517-a33278e39cab", 1), "", 0},
		{"", "", 0},
	} {
		k, ok := parseStateKey(backends.Object{ID: id, Label: c.label})
		if ok != (c.lineage != "") || ok && (k.lineage != c.lineage || k.epoch != c.epoch || k.id != id) {
			t.Errorf("%q: %+v, %t", c.label, k, ok)
		}
	}
}
