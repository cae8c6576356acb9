package kms

import (
	"testing"
	"time"

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

// TestBackoff: what fails is tried again after a minute, then less and less often,
// and at least once an hour.
func TestBackoff(t *testing.T) {
	t.Parallel()
	var b backoff
	now := time.Now()
	if !b.over(now) {
		t.Error("what has not failed waits")
	}
	for _, minutes := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		b.failed(now)
		if pause := time.Duration(minutes) * time.Minute; b.over(now.Add(pause-1)) || !b.over(now.Add(pause)) {
			t.Errorf("the pause is %s, want %s", b.pause, pause)
		}
		now = now.Add(b.pause)
	}
}
