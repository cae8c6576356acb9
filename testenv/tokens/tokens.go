// Package tokens has rigs for further PKCS#11 tokens than SoftHSM2: each makes empty
// tokens of one product in a temporary folder, or puts before SoftHSM2 a module with the
// published manners of a product that cannot be had. Importing the package lets
// testenv.NewToken make them when CMKD_TEST_TOKEN names one.
//
// enter.sh starts a command with CMKD_TEST_TOKEN set, inside the namespaces that
// some of them need.
package tokens

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"cmkd/testenv"
)

// Rig is a kind of token.
type Rig struct {
	Name string
	// About says what it is, for the table in docs/tokens.md.
	About string
	// Packages of Debian it needs beside those of `make deps`, "" if none.
	Packages string
	// Installed is a file that is there when they are.
	Installed string
	// Refused is part of why cmkd refuses the token, as the first one, "" if it serves.
	Refused string
	// Further: it cannot be the first token, and is tried as a further one.
	Further bool
	// Few and Frail are as the rigs of package backendstest have them.
	Few, Frail bool
	// new makes an empty token.
	new func(t testing.TB, dir, label string) *testenv.Token
}

// Missing says what to install for the rig, "" if nothing.
func (r *Rig) Missing() string {
	if found, _ := filepath.Glob(r.Installed); r.Installed == "" || len(found) > 0 { // the patterns are good
		return ""
	}
	return r.Packages + ": run `make deps-tokens`"
}

// All are the rigs, in the order of the table.
var All = slices.Concat([]*Rig{
	{Name: testenv.SoftHSM2, About: "SoftHSM2", new: testenv.NewSoftHSM2},
	opencryptoki, opencryptokiSid, nss, tpm2, remoting,
}, manners)

func init() {
	for _, r := range All {
		testenv.Kinds[r.Name] = func(t testing.TB, dir, label string) *testenv.Token {
			t.Helper()
			if missing := r.Missing(); missing != "" {
				t.Fatalf("token %s needs %s", r.Name, missing)
			}
			return r.new(t, dir, label)
		}
	}
}

// pin has eight characters, the most that opencryptoki takes.
const pin, soPIN = "fedcba98", "01234567-test"

// newToken is a token without a module, with its PIN in a file.
func newToken(t testing.TB, dir, label string) *testenv.Token {
	t.Helper()
	tok := &testenv.Token{Label: label, PIN: pin, PINFile: filepath.Join(dir, "pin")}
	if err := os.WriteFile(tok.PINFile, []byte(pin+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	return tok
}

// mkdir makes a folder in dir.
func mkdir(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a command to its end.
func run(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// background starts a command that ends with the test, and waits for a file.
func background(t testing.TB, env []string, ready, name string, args ...string) {
	t.Helper()
	log, err := os.Create(ready + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()                                                             //nolint:errcheck // the process has its own
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...) // it ends after the daemon
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // it was killed
	})
	if err := waitFor(ready, ended); err != nil {
		said, _ := os.ReadFile(log.Name()) // err says what matters
		t.Fatalf("%s: %v\n%s", name, err, said)
	}
}

// library finds a shared library of Debian's.
func library(t testing.TB, pattern string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/" + pattern)
	if len(found) == 0 {
		t.Fatalf("no /usr/lib/*/%s", pattern)
	}
	return found[0]
}

func quoted(format string, args ...any) string { return fmt.Sprintf(format, args...) + "\n" }
