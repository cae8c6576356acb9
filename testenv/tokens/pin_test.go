package tokens_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// TestPIN counts the calls of C_Login with a wrong PIN on the token that CMKD_TEST_TOKEN
// chooses: many tokens lock after three. It is tried once, however many processes there
// are and however often they start, and the right one is tried again.
func TestPIN(t *testing.T) {
	switch os.Getenv(testenv.Variable) {
	case "", "cloudhsm", "short-labels": // which are SoftHSM2 behind the module that counts
		return
	}
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	tok.Module, tok.Env = m.Path, append(tok.Env, m.Env...)
	tok.Sandbox = "sandbox = { off = true }\n" // the module writes its counts into a file
	right := tok.PINFile
	tok.PINFile = filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(tok.PINFile, []byte("89abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := rig.Prepare(t, rig.Config{Token: tok})
	for range 3 {
		if err := r.TryInitialise(t.Context()); err == nil {
			t.Fatal("a wrong PIN is right")
		}
	}
	if n := m.Control.Calls("C_Login"); n != 1 {
		t.Errorf("a wrong PIN is tried %d times", n)
	}
	if left := inFolder(t, filepath.Join(r.Dir, "s")); !slices.Equal(left, []string{"login-main"}) {
		t.Errorf("a PIN that was refused leaves %q", left)
	}
	pin, err := os.ReadFile(right)
	if err == nil {
		err = os.WriteFile(tok.PINFile, pin, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := chosen(t).Refused
	if err := r.TryInitialise(t.Context()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("with the right PIN: %v, want %q", err, want)
	}
}

// inFolder is what is in a folder, nothing if it is not there.
func inFolder(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
