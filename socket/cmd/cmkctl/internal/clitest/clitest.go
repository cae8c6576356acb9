// Package clitest holds what the tests of cmkctl's packages share.
package clitest

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// Yesterday and Today are what a file holds before a test and after it.
const Yesterday, Today = "yesterday's backup", "today's"

// Holds checks the content of a file.
func Holds(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

// Names checks what is in a folder.
func Names(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

// MustWrite makes a file that holds [Yesterday].
func MustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(Yesterday), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Must ends the test if any of errs is an error.
func Must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// HostileText would clear a terminal, make up a line, set the title, hide what
// follows and turn it round.
const HostileText = "a\x1b[2J\x1b]0;title\x07\x9b1m\r\nFORGED\tline\x7f\u009b31m\u0085\u2028\u2029\u202eevil\u2066\u200f\x00z"
