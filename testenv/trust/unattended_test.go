package trust

import (
	"os"
	"path/filepath"
	"slices"
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
	for round := range 2 { // the second time behind the records of the first
		swap()
		r.Start(t)
		if _, m := rig.AcceptState(t, r, ""); m.Mismatch == nil || !strings.Contains(m.Mismatch.Reason, "it is another token") {
			t.Fatalf("with another token: %+v", m.Mismatch)
		}
		refusesUnverified(t, r, a)
		rig.Cmkctl(t, r, "audit", "search")
		// What an operator would try, as the log has it.
		if _, m := rig.AcceptState(t, r, ""); m.Mismatch != nil {
			if _, answer := rig.AcceptState(t, r, m.Mismatch.Root); answer.Accepted {
				t.Error("the database is accepted with another token")
			}
		}
		if out, ok := rig.Cmkctl(t, r, "reload"); !ok {
			t.Errorf("reload: %s", out)
		}
		configuration, err := os.ReadFile(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.Path, append([]byte("typo\n"), configuration...), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, ok := rig.Cmkctl(t, r, "reload"); ok {
			t.Errorf("reload of a configuration with a mistake: %s", out)
		}
		if err := os.WriteFile(r.Path, configuration, 0o600); err != nil {
			t.Fatal(err)
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
		if said := strings.Count(r.Log(), "nothing vouches for them"); said != round+1 {
			t.Errorf("the log has said %d times which records nobody vouches for:\n%s", said, r.Log())
		}
		if n := strings.Count(r.AuditTrail(t), `"eventName":"StateVerified"`); n != round+1 {
			t.Errorf("the trail has said %d times which records nobody vouches for", n)
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

// TestOldDamage: what `audit verify` finds in front of the last checkpoints stays found, also after a restart,
// and accepting it starts the trail over.
func TestOldDamage(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{SegmentBytes: smallSegments})
	a, _ := life(t, r)
	for range 2 { // several checkpoints
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		r.Start(t)
		use(t, r.Client(""), a)
	}
	files := segments(t, trailDir(r))
	old := slices.IndexFunc(files, func(file string) bool { return strings.Contains(readFile(t, file), `:root"`) })
	if old < 0 || old > len(files)/2 {
		t.Fatalf("the first record of a call is in segment %d of %d", old+1, len(files))
	}
	if err := os.WriteFile(files[old], []byte(strings.Replace(readFile(t, files[old]), `:root"`, `:eve!"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, ok := rig.Cmkctl(t, r, "audit", "verify"); ok || !strings.Contains(out, "the audit trail does not verify: ") {
		t.Fatalf("audit verify: %s", out)
	}
	refusesUnverified(t, r, a)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
	if why := trailMismatch(t, r); !strings.Contains(why, "does not match its hash") {
		t.Errorf("after a restart: %q", why)
	}
	refusesUnverified(t, r, a)
	rig.Accept(t, r)
	use(t, r.Client(""), a)
	if aside, err := filepath.Glob(filepath.Join(trailDir(r), "aside-*")); err != nil || len(aside) != 1 {
		t.Errorf("the old trail is not set aside: %v, %v", aside, err)
	}
	if out, ok := rig.Cmkctl(t, r, "audit", "verify"); !ok {
		t.Errorf("audit verify after it was accepted: %s", out)
	}
}

// TestTrailOfLostDatabase: a trail that began under a database that was lost verifies as a whole, with the audit
// keys that the token still has.
func TestTrailOfLostDatabase(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	life(t, r)
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(rig.Database(r) + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("the files of the database: %v, %v", files, err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	r.Initialise(t)
	r.Start(t)
	if out, ok := rig.Cmkctl(t, r, "audit", "verify"); !ok {
		t.Errorf("audit verify: %s", out)
	}
}
