package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestNewToken(t *testing.T) {
	t.Parallel()
	a, b := NewToken(t), NewTokenLabelled(t, "another label")
	if a.Serial == b.Serial || a.ConfFile == b.ConfFile {
		t.Errorf("two tokens are one: %+v, %+v", a, b)
	}
	if out := b.Run(t, "softhsm2-util", "--show-slots"); !bytes.Contains(out, []byte("another label")) || !bytes.Contains(out, []byte(b.Serial)) {
		t.Errorf("the token is not there:\n%s", out)
	}
	pin, err := os.ReadFile(a.PINFile)
	if err != nil || string(pin) != a.PIN+"\n" {
		t.Errorf("the PIN file holds %q, %v", pin, err)
	}
	info, err := os.Stat(a.PINFile)
	if err != nil || info.Mode() != 0o400 {
		t.Errorf("the PIN file has mode %v, %v", info.Mode(), err)
	}
	a.Run(t, "pkcs11-tool", "--module", a.Module, "--token-label", a.Label, "--login", "--pin", a.PIN, "--list-objects")
}

// parentEnv tells the test below, in its own process, which one is its parent.
const parentEnv = "CMKD_TESTENV_PARENT"

func TestIsolated(t *testing.T) {
	t.Setenv(parentEnv, "this")
	Isolated(t, func(t *testing.T, tok *Token) {
		if os.Getenv(parentEnv) != "this" || os.Getenv("SOFTHSM2_CONF") != tok.ConfFile {
			t.Errorf("the environment is %v", os.Environ())
		}
		if !slices.Contains(os.Args, "-test.run=^TestIsolated$") {
			t.Errorf("the arguments are %v", os.Args)
		}
		t.Run("subtest", func(t *testing.T) { tok.Run(t, "softhsm2-util", "--show-slots") })
	})
}

// failEnv makes the test below fail in its own process.
const failEnv = "CMKD_TESTENV_FAIL"

// TestIsolatedFailure fails if it is told to; and unless it fails then, with
// what the process of its own said, it fails, too.
func TestIsolatedFailure(t *testing.T) {
	t.Parallel()
	if os.Getenv(failEnv) != "" {
		Isolated(t, func(t *testing.T, _ *Token) { t.Error("as it was told") })
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestIsolatedFailure$")
	cmd.Env = append(os.Environ(), failEnv+"=yes")
	out, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("as it was told")) || !bytes.Contains(out, []byte("--- FAIL: TestIsolatedFailure")) {
		t.Errorf("a test that fails in its own process: %v\n%s", err, out)
	}
}
