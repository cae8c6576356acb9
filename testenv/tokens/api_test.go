package tokens_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// apiSuites are the tests of the API, in testenv/api. Each of them has a daemon, and
// some rigs have one token only, so that each runs in a process of its own.
var apiSuites = []string{"TestAPI", "TestAPIPlaintext"}

// apiBinary builds the tests of testenv/api.
func apiBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", path, "../api").CombinedOutput(); err != nil {
		t.Fatalf("building the tests of the API: %v\n%s", err, out)
	}
	return path
}

// api runs the tests of the API on the token. A test that fails counts as refused if all
// that it complains of is UnsupportedOperationException with what the token lacks.
func api(t *testing.T, name, binary string) *outcome {
	t.Helper()
	enter, err := filepath.Abs("enter.sh")
	if err != nil {
		t.Fatal(err)
	}
	found := &outcome{}
	for _, suite := range apiSuites {
		cmd := exec.CommandContext(t.Context(), enter, name, binary, "-test.v=test2json", "-test.timeout=30m", "-test.run=^"+suite+"$")
		cmd.Dir = filepath.Join("..", "api")
		out, failed := cmd.CombinedOutput()
		convert := exec.CommandContext(t.Context(), "go", "tool", "test2json")
		convert.Stdin, convert.Stderr = bytes.NewReader(out), os.Stderr
		events, err := convert.Output()
		if err != nil {
			t.Fatalf("test2json: %v", err)
		}
		results, err := parse(events)
		if err != nil {
			t.Fatal(err)
		}
		if anyFailed := results.count(found); failed != nil && !anyFailed {
			found.Wrong++
			t.Errorf("%s: %v\n%s", suite, failed, out)
		}
	}
	for _, why := range found.Why {
		if strings.HasPrefix(why, wrong) {
			t.Error(why)
		}
	}
	return found
}

// result is what became of a test: its end, "pass", "fail" or "skip", and what it said.
type result struct {
	end      string
	said     strings.Builder
	children bool
}

// results are those of a run, by the tests' names.
type results map[string]*result

// parse reads what `go tool test2json` wrote.
func parse(events []byte) (results, error) {
	all := results{}
	of := func(name string) *result {
		if all[name] == nil {
			all[name] = &result{}
		}
		return all[name]
	}
	for d := json.NewDecoder(bytes.NewReader(events)); d.More(); {
		var e struct{ Action, Test, Output string }
		if err := d.Decode(&e); err != nil {
			return nil, fmt.Errorf("reading events of tests: %w", err)
		}
		if e.Test == "" {
			continue
		}
		r := of(e.Test)
		switch e.Action {
		case "output":
			r.said.WriteString(e.Output)
		case "pass", "fail", "skip":
			r.end = e.Action
		}
		for parent := e.Test; strings.Contains(parent, "/"); {
			parent = parent[:strings.LastIndex(parent, "/")]
			of(parent).children = true
		}
	}
	return all, nil
}

var (
	complaint = regexp.MustCompile(`(?m)^    \w+_test\.go:\d+: .*\n(?:        .*\n)*`)
	// As the SDK, the AWS CLI and a test that sends requests of its own write it.
	reason = regexp.MustCompile(`UnsupportedOperationException(?:(?:\) when calling the \w+ operation)?:| message:) *([^]\n]+)`)
)

// count adds the tests without subtests, and those that complain of their own, to o. It
// reports whether any failed.
func (all results) count(o *outcome) (anyFailed bool) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := all[name]
		complaints := complaint.FindAllString(r.said.String(), -1)
		switch {
		case r.end == "pass" && !r.children:
			o.Works++
		case r.end == "fail" && (!r.children || len(complaints) > 0):
			anyFailed = true
			o.blame(name, complaints)
		case r.end == "": // the process has ended within it
			o.blame(name, nil)
		}
	}
	return anyFailed
}

// blame counts a test that failed.
func (o *outcome) blame(name string, complaints []string) {
	var whys []string
	for _, c := range complaints {
		why := reason.FindStringSubmatch(c)
		if why == nil {
			whys = nil
			break
		}
		whys = append(whys, why[1])
	}
	if len(whys) == 0 {
		o.Wrong++
		o.add(wrong + name + ": " + strings.Join(complaints, ""))
		return
	}
	o.Refused++
	for _, why := range whys {
		o.add(why)
	}
}
