package audit

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestVerifiedTrail: one is singular.
func TestVerifiedTrail(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	at := time.Unix(0, 0).UTC()
	(&verifiedTrail{Records: 2, Segments: 1, First: 1, Last: 2, Hash: "00", FirstTime: at, LastTime: at, Checkpoints: 1, KeyID: "k", SignedThrough: 2, Unsigned: 1}).print(&out)
	for _, want := range []string{"2 records, 1 to 2, in 1 segment\n", ", 1 checkpoint, key k, 0 key changes\n", "unsigned at the end: 1 record\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q lacks %q", out.String(), want)
		}
	}
}
