package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/daemon"
	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// TestAnotherToken: a daemon that is started with another token of the same label says so, serves nothing, and
// leaves nothing behind that keeps it from going on when the right token is back. What somebody else has added
// meanwhile is found.
func TestAnotherToken(t *testing.T) {
	t.Parallel()
	tok, other := testenv.NewToken(t), testenv.NewToken(t)
	r := rig.New(t, rig.Config{Token: tok})
	a, _ := life(t, r)
	tokens, away := filepath.Join(filepath.Dir(tok.ConfFile), "tokens"), filepath.Join(filepath.Dir(other.ConfFile), "tokens")
	swap := func() {
		t.Helper()
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		between := tokens + ".swap"
		for _, names := range [][2]string{{tokens, between}, {away, tokens}, {between, away}} {
			if err := os.Rename(names[0], names[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 { // the second time behind the records of the first
		swap()
		r.Start(t)
		if _, m := rig.AcceptState(t, r, ""); m.Mismatch == nil || !strings.Contains(m.Mismatch.Reason, "it is another token") {
			t.Fatalf("with another token: %+v", m.Mismatch)
		}
		refusesUnverified(t, r, a)
		rig.Cmkctl(t, r, "audit", "search")
		if out, ok := rig.Cmkctl(t, r, "reload"); !ok {
			t.Errorf("reload: %s", out)
		}
		swap()
		// SoftHSM2 has a file for each object, and one for the token.
		if files, err := filepath.Glob(filepath.Join(away, "*", "*.object")); err != nil || len(files) != 1 {
			t.Errorf("objects were made in the other token: %v, %v", files, err)
		}
		r.Start(t)
		if _, m := rig.AcceptState(t, r, ""); m.Mismatch != nil {
			t.Fatalf("with its own token: %+v", m.Mismatch)
		}
		use(t, r.Client(""), a)
		if !strings.Contains(r.Log(), "nothing vouches for them") || !strings.Contains(r.AuditTrail(t), `"eventName":"StateVerified"`) {
			t.Errorf("neither the log nor the trail says which records nobody vouches for:\n%s", r.Log())
		}
		if out, ok := rig.Cmkctl(t, r, "audit", "verify"); !ok {
			t.Errorf("audit verify: %s", out)
		}
	}
	swap()
	r.Start(t)
	swap()
	report, err := offline(t, r, daemon.TrailOptions{})
	if err != nil {
		t.Fatal(err)
	}
	files := segments(t, trailDir(r))
	addRecord(t, files[len(files)-1], &report)
	r.Start(t)
	if why := trailMismatch(t, r); !strings.Contains(why, "added to the trail") {
		t.Errorf("a successful call was added while the token was another: %q", why)
	}
}
