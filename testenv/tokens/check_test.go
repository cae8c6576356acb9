package tokens_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon"
	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/tokens"
)

// check is one thing that is asked of a token, over the socket. An
// UnsupportedOperationException that says what the token lacks is not a fault.
type check struct {
	capability, name string
	run              func(context.Context, *world) error
}

// outcome is what came of the checks of a capability.
type outcome struct {
	Works, Refused, Wrong int
	// Why says what the token lacks, and what is wrong.
	Why []string
}

// wrong begins the reasons of what is wrong.
const wrong = "WRONG: "

// report is what was found out about a token.
type report struct {
	Token string // as it says itself
	// Refused is why the daemon does not serve it, "" if it does.
	Refused  string
	Outcomes map[string]*outcome
	// API is what came of the tests of the API; nil: they were not run.
	API   *outcome
	Facts map[string]string
	Specs map[string]string // why it has no such keys, by key spec; "" if it has
}

// note counts what came of a check.
func (r *report) note(c check, err error) {
	o := r.Outcomes[c.capability]
	if o == nil {
		o = &outcome{}
		r.Outcomes[c.capability] = o
	}
	switch reason := refused(err); {
	case err == nil:
		o.Works++
	case reason != "":
		o.Refused++
		o.add(reason)
	default:
		o.Wrong++
		o.add(fmt.Sprintf("%s%s: %v", wrong, c.name, err))
	}
}

// add adds a reason that is not there yet.
func (o *outcome) add(why string) {
	if !slices.Contains(o.Why, why) {
		o.Why = append(o.Why, why)
	}
}

// checks are all of them, in one order; the short ones if asked for, which make no
// RSA keys of more than 2048 bits.
func checks(short bool) []check {
	all := slices.Concat(encryption(), dataKeys(), dataKeyPairs(), signatures(), rsaDecryption(), agreement(), macs(), imports(), badInput())
	if short {
		all = slices.DeleteFunc(all, func(c check) bool {
			return strings.Contains(c.name, string(backends.RSA3072)) || strings.Contains(c.name, string(backends.RSA4096))
		})
	}
	slices.SortFunc(all, func(a, b check) int {
		return cmp.Or(cmp.Compare(a.capability, b.capability), cmp.Compare(a.name, b.name))
	})
	return all
}

// reportFile names the file in which TestToken leaves its report, as JSON.
const reportFile = "CMKD_TOKEN_REPORT"

// clock is the daemon's.
func clock() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }

// ahead is how far the clock of the daemon is ahead, in nanoseconds.
var ahead atomic.Int64

// TestToken asks everything of the token that CMKD_TEST_TOKEN chooses. No answer may be
// wrong, and none may cost a plugin process. Without it there is TestMatrix.
func TestToken(t *testing.T) {
	if os.Getenv(testenv.Variable) == "" {
		return
	}
	tok := testenv.NewToken(t)
	before := objects(t, tok)
	r := rig.Prepare(t, rig.Config{Token: tok, PlaintextDataKeys: true, Now: clock})
	state := filepath.Join(r.Dir, "s")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	found := probe(t, r)
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if n := objects(t, tok); n != before {
		t.Errorf("the probe leaves %d objects in the token", n-before)
	}
	if err := r.TryInitialise(t.Context()); err != nil {
		found.Refused = err.Error()
		if n := objects(t, tok); n != before {
			t.Errorf("a failed initialisation leaves %d objects in the token", n-before)
		}
		if left := inFolder(t, state); len(left) != 0 {
			t.Errorf("a failed initialisation leaves %q in the folder", left)
		}
		if chosen(t).Further {
			further(t, tok, found)
		}
	} else {
		r.Start(t)
		ask(t, r, found)
		live(t, r, tok, found)
	}
	if path := os.Getenv(reportFile); path != "" {
		text, err := json.Marshal(found)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, capability := range slices.Sorted(maps.Keys(found.Outcomes)) {
		o := found.Outcomes[capability]
		t.Logf("%s: %d works, %d refused, %d wrong: %s", capability, o.Works, o.Refused, o.Wrong, strings.Join(o.Why, "; "))
		if o.Wrong > 0 {
			t.Errorf("%s: %d answers are wrong", capability, o.Wrong)
		}
	}
	expected(t, found)
}

// expected checks the refusal of a token against what its rig says.
func expected(t *testing.T, found *report) {
	t.Helper()
	r := chosen(t)
	if (r.Refused == "") != (found.Refused == "") || !strings.Contains(found.Refused, r.Refused) {
		t.Errorf("the token is refused with %q, want %q", found.Refused, r.Refused)
	}
}

// chosen is the rig that CMKD_TEST_TOKEN names.
func chosen(t testing.TB) *tokens.Rig {
	t.Helper()
	for _, r := range tokens.All {
		if r.Name == os.Getenv(testenv.Variable) {
			return r
		}
	}
	t.Fatalf("there is no rig %q", os.Getenv(testenv.Variable))
	return nil
}

// probe asks what the token can do, as `cmkctl doctor` does.
func probe(t *testing.T, r *rig.Rig) *report {
	t.Helper()
	list, _, err := daemon.Probe(t.Context(), r.Path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	found := &report{Outcomes: map[string]*outcome{}, Facts: map[string]string{}, Specs: map[string]string{}}
	for _, p := range list {
		if p.Found != nil {
			found.Token = printable(fmt.Sprintf("%s %s, firmware %s", p.Found.Manufacturer, p.Found.Model, p.Found.Firmware))
		}
		for name, fact := range p.Facts {
			found.Facts[name] = fact
		}
		for _, s := range p.Specs {
			found.Specs[string(s.Spec)] = s.Unsupported
		}
	}
	return found
}

// printable leaves out what modules pad their texts with.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return -1
		}
		return r
	}, s)
}

// ask makes all checks.
func ask(t *testing.T, r *rig.Rig, found *report) {
	t.Helper()
	w := newWorld(t, r, os.Getenv(long) == "")
	askAll(t, w, checks(w.short), found)
}

func askAll(t *testing.T, w *world, all []check, found *report) {
	t.Helper()
	for _, c := range all {
		err := c.run(t.Context(), w)
		found.note(c, err)
		if n := w.restarts(t); n != 0 {
			t.Fatalf("%s, %s: %d plugins were replaced", c.capability, c.name, n)
		}
	}
}

// objects counts the objects in the token, by another program.
func objects(t testing.TB, tok *testenv.Token) int {
	t.Helper()
	// Without what it says on standard error: that would stand in the middle of a line.
	out := tok.Run(t, "pkcs11-tool", "--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", tok.PIN, "--list-objects")
	return strings.Count("\n"+string(out), " Object;") + strings.Count(string(out), "Object 0")
}
