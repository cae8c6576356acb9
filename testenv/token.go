// Package testenv makes SoftHSM2 tokens for tests, each in a folder of its own
// so that tests run in parallel.
//
// SoftHSM2 reads its configuration once per process, from the file that
// SOFTHSM2_CONF names. A test that loads the module itself therefore runs in a
// process of its own: see [Isolated].
package testenv

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// Token is a SoftHSM2 token that lives as long as a test.
type Token struct {
	Module   string // path of libsofthsm2.so
	Label    string
	Serial   string
	PIN      string
	PINFile  string // mode 0400, the PIN and a line feed
	ConfFile string // what SOFTHSM2_CONF must name
	// Env is the environment of a process that is to see the token:
	// "SOFTHSM2_CONF=" and the file.
	Env []string
	// Sandbox is what the configuration says of the token's sandbox, as TOML; "" for
	// nothing.
	Sandbox string
}

// Variable names the kind of token that tests get: one of Kinds, or SoftHSM2 if it
// is not set.
const Variable = "CMKD_TEST_TOKEN"

// Chosen reports whether Variable names another kind of token than SoftHSM2: one that may
// do what SoftHSM2 lacks.
func Chosen() bool { return os.Getenv(Variable) != "" && os.Getenv(Variable) != SoftHSM2 }

// Kinds make tokens of other kinds than SoftHSM2, in an empty folder. Package tokens
// fills it.
var Kinds = map[string]func(t testing.TB, dir, label string) *Token{}

const (
	pin   = "fedcba98-test"
	soPIN = "01234567-test"
)

// modules are the places where distributions put SoftHSM2.
var modules = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// Module returns the path of the SoftHSM2 library: SOFTHSM2_MODULE if that is
// set, else where distributions put it. A test without it has failed.
func Module(t testing.TB) string {
	t.Helper()
	if m := os.Getenv("SOFTHSM2_MODULE"); m != "" {
		return m
	}
	for _, m := range modules {
		if _, err := os.Stat(m); err == nil {
			return m
		}
	}
	t.Fatalf("SoftHSM2 is not installed: none of %s is there. Run `make deps`, or set SOFTHSM2_MODULE.", strings.Join(modules, ", "))
	return ""
}

// NewToken makes a fresh token in a folder that goes with the test.
func NewToken(t testing.TB) *Token {
	t.Helper()
	return NewTokenLabelled(t, "cmkd-test")
}

// NewTokenLabelled makes a fresh token with the given label.
func NewTokenLabelled(t testing.TB, label string) *Token {
	t.Helper()
	return NewTokenIn(t, tempDir(t), label)
}

// NewTokenIn makes a fresh token in a folder, which is empty.
func NewTokenIn(t testing.TB, dir, label string) *Token {
	t.Helper()
	kind := os.Getenv(Variable)
	if kind == "" || kind == SoftHSM2 {
		return NewSoftHSM2(t, dir, label)
	}
	f := Kinds[kind]
	if f == nil {
		t.Fatalf("%s=%s: no such kind of token, or this test does not import testenv/tokens", Variable, kind)
	}
	return f(t, dir, label)
}

// SoftHSM2 is the kind of token that tests get without Variable.
const SoftHSM2 = "softhsm2"

// NewSoftHSM2 makes a fresh SoftHSM2 token in a folder, which is empty.
func NewSoftHSM2(t testing.TB, dir, label string) *Token {
	t.Helper()
	tok := &Token{
		Module:   Module(t),
		Label:    label,
		PIN:      pin,
		PINFile:  filepath.Join(dir, "pin"),
		ConfFile: filepath.Join(dir, "softhsm2.conf"),
	}
	tok.Env = []string{"SOFTHSM2_CONF=" + tok.ConfFile}
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	writeFile(t, tok.ConfFile, conf, 0o600)
	writeFile(t, tok.PINFile, pin+"\n", 0o400)
	tok.AddToken(t, label)
	tok.Serial = tok.serial(t)
	return tok
}

// tempDir is t.TempDir, in memory where the system has a place for that:
// SoftHSM2 writes the file of an object some twenty times until it is made,
// and a token of a test need not survive the machine.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cmkd-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the token: %v", err)
		}
	})
	return dir
}

// AddToken makes one more token beside the first, with the same PIN.
func (tok *Token) AddToken(t testing.TB, label string) {
	t.Helper()
	tok.Run(t, "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", soPIN)
}

// serial asks a child process, because asking the module binds the asking
// process to this token.
func (tok *Token) serial(t testing.TB) string {
	t.Helper()
	out := tok.Run(t, "softhsm2-util", "--show-slots")
	m := regexp.MustCompile(`(?m)^\s*Serial number:\s*([0-9a-f]+)\s*$`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("softhsm2-util shows no serial number:\n%s", out)
	}
	return string(m[1])
}

// Run runs a command that sees the token, and returns what it printed on its
// standard output alone: pkcs11-tool warns in the middle of a line of a list.
func (tok *Token) Run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), tok.Env...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v (are the packages of `make deps` installed?)\n%s%s", name, err, out, &complaint)
	}
	return out
}

func writeFile(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// isolated is set in the processes that Isolated starts: the token, as JSON.
const isolated = "CMKD_TESTENV_ISOLATED"

// Isolated makes a token and runs f in a process of its own that sees it: the
// test binary, started again for this one test. Its subtests run there too. The
// caller is a top-level test.
func Isolated(t *testing.T, f func(t *testing.T, tok *Token)) {
	t.Helper()
	if text := os.Getenv(isolated); text != "" {
		tok := &Token{}
		if err := json.Unmarshal([]byte(text), tok); err != nil {
			t.Fatal(err)
		}
		f(t, tok)
		return
	}
	if strings.Contains(t.Name(), "/") {
		t.Fatal("testenv.Isolated must be called by a top-level test")
	}
	text, err := json.Marshal(NewToken(t))
	if err != nil {
		t.Fatal(err)
	}
	tok := &Token{}
	if err := json.Unmarshal(text, tok); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+untilText(deadline))
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), tok.Env...), isolated+"="+string(text))
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("in its own process: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" ")):
		t.Errorf("the test did not run in its own process:\n%s", out)
	case testing.Verbose():
		t.Logf("in its own process:\n%s", out)
	}
}

// Objects opens a read-write session with the token in this process, logged
// in, beside whatever else the process does with it: for planting and
// inspecting objects. The module must have been initialised before.
func (tok *Token) Objects(t testing.TB) (*p11.Ctx, p11.SessionHandle) {
	t.Helper()
	ctx := p11.New(tok.Module)
	if ctx == nil {
		t.Fatalf("loading %s", tok.Module)
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil || info.SerialNumber != tok.Serial {
			continue
		}
		s, err := ctx.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ctx.CloseSession(s) }) // the module may be finalised by then
		return ctx, s
	}
	t.Fatalf("no slot has the token with serial number %s", tok.Serial)
	return nil, 0
}

// untilText is the time until a deadline, less what a parent needs to report.
func untilText(deadline time.Time) string {
	return max(time.Until(deadline)-5*time.Second, time.Second).String()
}
