package token

import (
	"strings"
	"testing"
)

// TestLabels: each label of the daemon's has a short form of few characters, and comes
// back from it.
func TestLabels(t *testing.T) {
	t.Parallel()
	const uuid, hex = "0123abcd-4567-89ef-0123-456789abcdef", "0123456789abcdef0123456789abcdef"
	for _, plain := range []string{
		"cmkd:" + uuid + ":1", "cmkd:mrk-" + hex + ":12", "cmkd:import-" + uuid + ":1", "cmkd:import-mrk-" + hex + ":1",
		"cmkd:system-wrapping:1", "cmkd:system-audit:3", "cmkd:system-state:1", "cmkd:system-state-" + hex + ":34359738367",
	} {
		compact, ok := compactLabel(plain)
		if !ok || len(compact) > compactLength || strings.Trim(compact, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			t.Errorf("%s becomes %q, %t", plain, compact, ok)
		}
		if got := plainLabel(compact); got != plain {
			t.Errorf("%s comes back as %s", plain, got)
		}
	}
	for _, other := range []string{
		"", "cmkd:", "cmkd:x", "cmkd:x:1", "cmkd:" + strings.ToUpper(uuid) + ":1", "cmkd:" + uuid + ":01", "cmkd:" + uuid + ":34359738368",
		"cmkd:" + hex + ":1", "cmkd:system-other:1",
	} {
		if compact, ok := compactLabel(other); ok {
			t.Errorf("%q becomes %q", other, compact)
		}
	}
	for _, foreign := range []string{"", "CMKD", "CMKDK", "CMKDX1", "CMKDW", "CMKDW01", "CMKDWx", "cmkd:" + uuid + ":1", "CMKDKAAAA"} {
		if got := plainLabel(foreign); got != foreign {
			t.Errorf("%q is taken for %q", foreign, got)
		}
	}
}

// FuzzLabel: what is taken for the short form of a label is that of no other.
func FuzzLabel(f *testing.F) {
	f.Add("CMKDW1")
	f.Add("CMKDKAERKXTKFM6E66AJDIVTYTK6N541")
	f.Fuzz(func(t *testing.T, stored string) {
		if plain := plainLabel(stored); plain != stored {
			if again, ok := compactLabel(plain); !ok || again != stored {
				t.Errorf("%q is %q, which is %q", stored, plain, again)
			}
		}
	})
}
