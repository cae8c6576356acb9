package tokens_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/tokens"
)

const (
	// long makes all rigs and all checks; without it tests make the rigs of usual.
	long = "CMKD_TOKENS"
	// page is the file that the matrix is written to, and reports the folder of what was
	// found out about each token, as JSON.
	page    = "CMKD_TOKENS_PAGE"
	reports = "CMKD_TOKENS_REPORTS"
)

// usual are the rigs that every run of the tests makes, beside SoftHSM2, which all
// the other tests use: they need nothing but what `make deps` installs.
var usual = []string{"kryoptic", "p11-kit"}

// TestMatrix runs TestPIN, TestToken, the suite of package backendstest and the tests of the API on
// each token, and prints what each of them can do. -run '^TestMatrix$/^NAME$' is for one:
// what was found out about the others before is kept.
func TestMatrix(t *testing.T) {
	found := map[string]*report{}
	if os.Getenv(testenv.Variable) != "" {
		return // of one token, the other tests say all
	}
	var binary string
	if os.Getenv(long) != "" {
		binary = apiBinary(t)
	}
	for _, r := range tokens.All {
		if os.Getenv(long) == "" && !slices.Contains(usual, r.Name) {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			if missing := r.Missing(); missing != "" {
				t.Fatalf("it needs %s", missing)
			}
			f := run(t, r.Name)
			if binary != "" && f.Refused == "" {
				f.API = api(t, r.Name, binary)
			}
			found[r.Name] = f
			keep(t, r.Name, f)
		})
	}
	for _, r := range tokens.All {
		if f := kept(t, r.Name); found[r.Name] == nil && f != nil {
			found[r.Name] = f
		}
	}
	text := matrix(found)
	t.Logf("\n%s", text)
	if path := os.Getenv(page); path != "" && len(found) == len(tokens.All) && !t.Failed() {
		if err := os.WriteFile(path, []byte(head+text+verdicts(found)+legend(t, found)+facts(found)), 0o644); err != nil { //nolint:gosec // documentation
			t.Error(err)
		}
	}
}

// keep writes the report of a token on which nothing is wrong.
func keep(t *testing.T, name string, f *report) {
	t.Helper()
	dir := os.Getenv(reports)
	if dir == "" || t.Failed() {
		return
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name+".json"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// kept is the report of an earlier run, nil if there is none.
func kept(t *testing.T, name string) *report {
	t.Helper()
	dir := os.Getenv(reports)
	text, err := os.ReadFile(filepath.Join(dir, name+".json"))
	if dir == "" || err != nil {
		return nil
	}
	f := &report{}
	if err := json.Unmarshal(text, f); err != nil {
		t.Fatal(err)
	}
	return f
}

// run tests a token in processes of its own, in the namespaces that it needs.
func run(t *testing.T, name string) *report {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report")
	tests := []string{"TestPIN", "TestToken"}
	// The suite makes more keys than a process of such a token has room for.
	if os.Getenv(long) != "" && !isFurther(name) {
		tests = append(tests, "TestSuite")
	}
	for _, test := range tests {
		cmd := exec.CommandContext(t.Context(), "./enter.sh", name, os.Args[0], "-test.v", "-test.timeout=30m", "-test.run=^"+test+"$")
		cmd.Env = append(os.Environ(), reportFile+"="+path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", test, err, out)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := &report{}
	if err := json.Unmarshal(raw, found); err != nil {
		t.Fatal(err)
	}
	return found
}

// isFurther reports whether a rig's token cannot be the first one.
func isFurther(name string) bool {
	return slices.ContainsFunc(tokens.All, func(r *tokens.Rig) bool { return r.Name == name && r.Further })
}

// matrix is the table of tokens and capabilities, in Markdown.
func matrix(found map[string]*report) string {
	capabilities := map[string]bool{}
	for _, f := range found {
		for c := range f.Outcomes {
			capabilities[c] = true
		}
	}
	columns := slices.Sorted(maps.Keys(capabilities))
	var b strings.Builder
	fmt.Fprintf(&b, "| token | %s | works | refused | wrong | tests of the API |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+4))
	for _, r := range tokens.All {
		f := found[r.Name]
		if f == nil {
			continue
		}
		var sum outcome
		fmt.Fprintf(&b, "| %s |", r.Name)
		for _, c := range columns {
			o := f.Outcomes[c]
			if o == nil {
				o = &outcome{}
			}
			sum.Works, sum.Refused, sum.Wrong = sum.Works+o.Works, sum.Refused+o.Refused, sum.Wrong+o.Wrong
			fmt.Fprintf(&b, " %s |", cell(o))
		}
		fmt.Fprintf(&b, " %d | %d | %d | %s |\n", sum.Works, sum.Refused, sum.Wrong, cell(cmp.Or(f.API, &outcome{})))
	}
	return b.String()
}

func cell(o *outcome) string {
	switch {
	case o.Wrong > 0:
		return fmt.Sprintf("**%d wrong**", o.Wrong)
	case o.Works == 0 && o.Refused == 0:
		return "–" // the daemon does not start
	case o.Works == 0:
		return "refused"
	case o.Refused == 0:
		return fmt.Sprintf("%d", o.Works)
	}
	return fmt.Sprintf("%d, %d refused", o.Works, o.Refused)
}
