package crash

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A checker that cannot fail proves nothing. Each test here has a daemon that did one
// thing wrong.

// TestSettle compares facts with what calls should have made of them.
func TestSettle(t *testing.T) {
	t.Parallel()
	base := facts{"key/a/r/state": "Enabled"}
	tagged := &call{id: 1, operation: "TagResource", change: change{"key/a/r/tag/x": "1", "key/a/r/tag/y": "1"}, ended: 10}
	disabled := &call{id: 2, operation: "DisableKey", change: change{"key/a/r/state": "Disabled"}, began: 20, ended: unanswered}
	refused := &call{id: 3, operation: "CreateAlias", change: change{"alias/r/z": "a"}, ended: 11, failure: "LimitExceededException"}
	removed := &call{id: 4, operation: "UntagResource", change: change{"key/a/r/tag/x": gone}, began: 30, ended: 40}
	calls := []*call{disabled, tagged, refused, removed}
	all := facts{"key/a/r/state": "Enabled", "key/a/r/tag/x": "1", "key/a/r/tag/y": "1"}
	with := func(f facts, more facts) facts {
		f = maps.Clone(f)
		maps.Copy(f, more)
		return f
	}
	without := func(name string) facts {
		f := maps.Clone(all)
		delete(f, name)
		return f
	}
	for _, tt := range []struct {
		name     string
		at       int
		seen     facts
		happened int
		problem  string // "" is none
	}{
		{"what was answered", 25, all, 0, ""},
		{"and what was pending", 25, with(all, facts{"key/a/r/state": "Disabled"}), 1, ""},
		{"before it began", 15, with(all, facts{"key/a/r/state": "Disabled"}), 0, `is "Disabled"`},
		{"an answer is lost", 25, base, 0, "is not there"},
		{"half of an answer is lost", 25, without("key/a/r/tag/y"), 0, "tag/y should be"},
		{"another value", 25, with(all, facts{"key/a/r/tag/y": "2"}), 0, `should be "1" and is "2"`},
		{"what was refused happened", 25, with(all, facts{"alias/r/z": "a"}), 0, "should not be there"},
		{"nobody asked for it", 25, with(all, facts{"key/b/r/state": "Enabled"}), 0, "should not be there"},
		{"pending, and it happened", 35, without("key/a/r/tag/x"), 1, ""},
		{"answered, and it did not happen", 45, all, 0, "should not be there"},
		{"before its answer", 5, base, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			acknowledged, pending := fold(base, calls, tt.at)
			happened, problems := settle(acknowledged, pending, tt.seen)
			if len(happened) != tt.happened {
				t.Errorf("%d of the pending calls happened, want %d", len(happened), tt.happened)
			}
			expect(t, problems, tt.problem)
		})
	}
}

// expect checks that there is the problem, or none.
func expect(t *testing.T, problems []string, want string) {
	t.Helper()
	if text := strings.Join(problems, "\n"); (want == "") != (text == "") || !strings.Contains(text, want) {
		t.Errorf("problems %q, want %q", text, want)
	}
}

// TestRecords compares trails with the calls that they should tell of.
func TestRecords(t *testing.T) {
	t.Parallel()
	record := func(agent, event, name, rest string) string {
		return fmt.Sprintf(`{"eventID":%q,"eventName":%q,"userAgent":%q%s}`, event, name, agent, rest)
	}
	back := func(event string) string {
		return fmt.Sprintf(`{"eventID":"b","eventName":"ChangeNotCommitted","eventType":"AwsServiceEvent","additionalEventData":{"details":{"notCommitted":%q}}}`, event)
	}
	calls := []*call{
		{id: 1, operation: "CreateKey", change: change{"k": "1"}, ended: 10},
		{id: 2, operation: "CreateAlias", change: change{"a": "1"}, ended: 11, failure: "LimitExceededException"},
		{id: 3, operation: "DisableKey", change: change{"k": "2"}, began: 20, ended: unanswered},
		{id: 4, operation: "EnableKey", change: change{"k": "3"}, began: 90, ended: 91},
	}
	one, two := record("crash/1", "e1", "CreateKey", ""), record("crash/2", "e2", "CreateAlias", `,"errorCode":"LimitExceededException"`)
	three := record("crash/3", "e3", "DisableKey", "")
	for _, tt := range []struct {
		name     string
		lines    []string
		happened bool // the third call
		problem  string
	}{
		{"as it should be", []string{one, two}, false, ""},
		{"and what was pending", []string{one, two, three}, true, ""},
		{"a record is missing", []string{two}, false, "call 1, CreateKey has 0 records"},
		{"a record is there twice", []string{one, one, two}, false, "has 2 records"},
		{"an answer is taken back", []string{one, two, back("e1")}, false, "has 0 records"},
		{"an error has no record", []string{one}, false, "records of errors"},
		{"an error has a record of success", []string{one, two, record("crash/2", "e", "CreateAlias", "")}, false, "call 2"},
		{"it happened without a record", []string{one, two}, true, "call 3, DisableKey has 0 records"},
		{"a record of what did not happen", []string{one, two, three}, false, "call 3, DisableKey has 1 records"},
		{"and taken back", []string{one, two, three, back("e3")}, false, ""},
		{"taken back, and it happened", []string{one, two, three, back("e3")}, true, "has 0 records"},
		{"taken back twice", []string{one, two, three, back("e3"), back("e3")}, false, "taken back 2 times"},
		{"of another operation", []string{record("crash/1", "e1", "DeleteAlias", ""), two}, false, "a record of DeleteAlias"},
		{"of a call after the power cut", []string{one, two, record("crash/4", "e4", "EnableKey", "")}, false, "nobody made"},
		{"of a call that nobody made", []string{one, two, record("crash/99", "e9", "EnableKey", "")}, false, "nobody made"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			trail := trailOf(t, tt.lines...)
			happened := map[*call]bool{}
			if tt.happened {
				happened[calls[2]] = true
			}
			expect(t, trail.check(calls, 0, 50, happened), tt.problem)
		})
	}
}

func trailOf(t *testing.T, lines ...string) *trail {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.jsonl"), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trail, err := readTrail(dir)
	if err != nil {
		t.Fatal(err)
	}
	return trail
}

// TestEvents compares trails with what the service did on its own.
func TestEvents(t *testing.T) {
	t.Parallel()
	deletion := func(id string) string {
		return fmt.Sprintf(`{"eventID":%q,"eventName":"DeleteKey","eventType":"AwsServiceEvent","awsRegion":"r","serviceEventDetails":{"keyId":"k"}}`, id)
	}
	const rotation = `{"eventID":"r","eventName":"RotateKey","eventType":"AwsServiceEvent","awsRegion":"r","serviceEventDetails":{"keyId":"k","currentKeyMaterialId":"m"}}`
	for _, tt := range []struct {
		name      string
		lines     []string
		deleted   map[string]int
		materials map[string]string
		problem   string
	}{
		{"a deletion", []string{deletion("1")}, map[string]int{"r/k": 1}, nil, ""},
		{"that was recorded again after a kill", []string{deletion("1"), deletion("1")}, map[string]int{"r/k": 1}, nil, ""},
		{"without a record", []string{""}, map[string]int{"r/k": 1}, nil, "with 0 eventIDs"},
		{"with two", []string{deletion("1"), deletion("2")}, map[string]int{"r/k": 1}, nil, "with 2 eventIDs"},
		{"of a key that is there", []string{deletion("1")}, nil, nil, "and it is there"},
		{"a rotation", []string{rotation}, nil, map[string]string{"m": "k"}, ""},
		{"a rotation without a record", []string{rotation}, nil, map[string]string{"n": "k"}, "no record of the rotation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			expect(t, trailOf(t, tt.lines...).checkEvents(tt.deleted, tt.materials), tt.problem)
		})
	}
}

// TestCompare compares tokens with the rows about them.
func TestCompare(t *testing.T) {
	t.Parallel()
	r := rows{wanted: map[string]string{"01": "versions", "02": "versions"}, explained: map[string]string{"03": "create"}}
	secret := func(id string) object { return object{id: id, kind: "Secret Key", text: "Secret Key " + id} }
	for _, tt := range []struct {
		name    string
		objects []object
		problem string
	}{
		{"agree", []object{secret("01"), {"02", "Private Key", ""}, {"02", "Public Key", ""}}, ""},
		{"agree, with an intent", []object{secret("01"), secret("02"), secret("03")}, ""},
		{"an orphan", []object{secret("01"), secret("02"), secret("04")}, "no row names"},
		{"an object without an ID", []object{secret("01"), secret("02"), {"", "Secret Key", "  label:      cmkd:x:1\n"}}, "no row names"},
		{"an object without a name", []object{secret("01"), secret("02"), {"", "Secret Key", "  label:      \n  Usage:      encrypt\n"}}, ""},
		{"a row without an object", []object{secret("01")}, "no object in the token for 02"},
		{"a row with half an object", []object{secret("01"), {"02", "Public Key", ""}}, "no object in the token for 02"},
		{"an object twice", []object{secret("01"), secret("01"), secret("02")}, "twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nameless, problems := r.compare(tt.objects)
			expect(t, problems, tt.problem)
			if want := strings.HasSuffix(tt.name, "without a name"); (nameless == 1) != want {
				t.Errorf("%d objects without a name", nameless)
			}
		})
	}
}
