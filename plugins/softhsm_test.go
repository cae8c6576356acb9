package plugins_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/plugins"
	"cmkd/testenv"
	"cmkd/testenv/p11kit"
	"cmkd/testenv/shim"
)

// The tests below run the real symmetric plugin on a SoftHSM2 token.

// buildDir is a folder that TestMain makes and removes.
var buildDir string

// built is the folder with the plugins' executables, made once.
var built = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "build", "-o", buildDir, "cmkd/plugins/symmetric", "cmkd/plugins/asymmetric").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return buildDir, nil
})

// asymmetric is symmetric of the other plugin.
func asymmetric(t testing.TB, tok *testenv.Token, module string, env []string) plugins.Spec {
	t.Helper()
	s := symmetric(t, tok, module, env)
	s.Name, s.Path = "test/asymmetric", filepath.Join(filepath.Dir(s.Path), "asymmetric")
	return s
}

// symmetric describes the plugin on a token, with a module in place of the
// token's own if it is not "".
func symmetric(t testing.TB, tok *testenv.Token, module string, env []string) plugins.Spec {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatalf("building the symmetric plugin: %v", err)
	}
	s := spec(t, nil)
	s.Name = "test/symmetric"
	s.Path = filepath.Join(dir, "symmetric")
	s.Env = map[string]string{}
	for _, e := range append(tok.Env, env...) {
		name, value, _ := strings.Cut(e, "=")
		s.Env[name] = value
	}
	if module == "" {
		module = tok.Module
	}
	s.Config = plugins.Config{Module: module, TokenLabel: tok.Label, PINFile: tok.PINFile}
	if control := s.Env["CMKD_SHIM_CONTROL"]; control != "" {
		s.Config.Sandbox.Writable = []string{control}
	}
	s.Config.Sandbox.Network = s.Env["P11_KIT_SERVER_ADDRESS"] != ""
	return s
}

var (
	cmk      = backends.Key{ID: backends.KeyID{1}, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}
	wrapping = backends.Key{ID: backends.KeyID{2}, Spec: backends.AES256, Usage: backends.WrapDataKeys}
)

// create makes both keys.
func create(t testing.TB, h *plugins.Host) {
	t.Helper()
	for _, k := range []backends.Key{cmk, wrapping} {
		if _, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: k, Label: "cmkd:" + k.ID.String() + ":1"}); err != nil {
			t.Fatal(err)
		}
	}
}

// RoundTrip encrypts, decrypts and makes a data key.
func roundTrip(ctx context.Context, h *plugins.Host) error {
	in := &backends.EncryptRequest{Key: cmk, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("plaintext"), AAD: []byte("context")}
	sealed, err := h.Encrypt(ctx, in)
	if err != nil {
		return err
	}
	opened, err := h.Decrypt(ctx, &backends.DecryptRequest{Key: cmk, Algorithm: in.Algorithm, Sealed: sealed.Sealed, AAD: in.AAD})
	if err != nil {
		return err
	}
	if string(opened.Plaintext) != "plaintext" {
		return errors.New("decrypted to something else")
	}
	key, err := h.GenerateDataKey(ctx, &backends.GenerateDataKeyRequest{Key: cmk, Wrapping: wrapping, Length: 32, AAD: in.AAD})
	if err != nil {
		return err
	}
	_, err = h.OpenDataKey(ctx, &backends.OpenDataKeyRequest{Key: cmk, Sealed: key.Sealed, AAD: in.AAD})
	return err
}

// tokenLoad is load with a real token.
func tokenLoad(t *testing.T, h *plugins.Host, callers int) (calls *atomic.Int64, stop func()) {
	t.Helper()
	calls = new(atomic.Int64)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range callers {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := roundTrip(context.Background(), h); err != nil {
					t.Errorf("client error: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	return calls, func() { close(done); wg.Wait() }
}

func TestTokenKillUnderLoad(t *testing.T) {
	t.Parallel()
	h := start(t, symmetric(t, testenv.NewToken(t), "", nil))
	create(t, h)
	calls, stop := tokenLoad(t, h, 32)
	for range 20 {
		progress(t, calls, 20)
		kill(t, h.Status().PID)
	}
	progress(t, calls, 20)
	stop()
}

// TestTokenFailures lets the module fail in the middle of a load of calls; no
// caller notices.
func TestTokenFailures(t *testing.T) {
	t.Parallel()
	const deviceError = 0x30
	for name, c := range map[string]struct {
		function string
		do       shim.Action
		replaced string // of a long input the token is asked again first
	}{
		"crash":         {"C_Encrypt", shim.Crash, "yes"},
		"crash after":   {"C_WrapKey", shim.CrashAfter, "yes"},
		"hang":          {"C_Encrypt", shim.Hang, "yes"},
		"device error":  {"C_WrapKey", shim.Fail(deviceError), "yes"},
		"persisted":     {"C_WrapKey", shim.FailAfter(deviceError), "yes"},
		"passing fault": {"C_DecryptInit", shim.Fail(deviceError), "no"}, // good input works, and so does this one then
		"random fails":  {"C_GenerateRandom", shim.Fail(deviceError), "maybe"},
		"slow":          {"C_Encrypt", shim.Delay(100 * time.Millisecond), "no"},
		"noise":         {"C_Encrypt", shim.Noise, "no"},
		"noise at open": {"C_Initialize", shim.Noise, "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := testenv.NewToken(t)
			m := shim.New(t, tok.Module)
			s := symmetric(t, tok, m.Path, m.Env)
			s.Config.QuickTimeout = time.Second
			if c.function == "C_Initialize" {
				m.Control.Set(c.function, c.do)
			}
			h := start(t, s)
			create(t, h)
			calls, stop := tokenLoad(t, h, 8)
			progress(t, calls, 20)
			before := h.Status().Restarts
			if c.function != "C_Initialize" {
				m.Control.SetRule(c.function, shim.Rule{Do: c.do, Times: 1})
			}
			for c.replaced == "yes" && h.Status().Restarts == before && !t.Failed() {
				progress(t, calls, 1)
			}
			progress(t, calls, 50)
			stop()
			if st := h.Status(); c.replaced == "no" && st.Restarts != 0 {
				t.Errorf("the process was replaced: %+v", st)
			}
		})
	}
}

// TestTokenCreationThatFailedButPersisted repeats a creation whose first try
// left a key in the token.
func TestTokenCreationThatFailedButPersisted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do       shim.Action
		restarts int
	}{
		"error": {shim.FailAfter(0x30), 0}, // repeated in the process
		"crash": {shim.CrashAfter, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := testenv.NewToken(t)
			m := shim.New(t, tok.Module)
			h := start(t, symmetric(t, tok, m.Path, m.Env))
			m.Control.SetRule("C_GenerateKey", shim.Rule{Do: c.do, Times: 1})
			answer, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: cmk, Label: "cmkd:a:1"})
			if err != nil || !answer.Existed {
				t.Errorf("CreateKey: %+v, %v", answer, err)
			}
			list, err := h.ListKeys(t.Context(), &backends.ListKeysRequest{})
			if err != nil || len(list.Objects) != 1 {
				t.Errorf("the token holds %v, %v", list, err)
			}
			if st := h.Status(); st.Restarts != c.restarts {
				t.Errorf("%d restarts wanted: %+v", c.restarts, st)
			}
		})
	}
}

// TestTokenCreationBesideReload: a creation whose process is lost after a reload has
// its key once. The next process had opened the token before the key came.
func TestTokenCreationBesideReload(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	s := symmetric(t, tok, m.Path, m.Env)
	s.HeartbeatInterval = time.Hour // the process is stopped for a while
	h := start(t, s)
	old := h.Status().PID
	m.Control.SetRule("C_GenerateKey", shim.Rule{Do: shim.Delay(2 * time.Second), Times: 1})
	type result struct {
		answer *backends.CreateKeyAnswer
		err    error
	}
	made := make(chan result, 1)
	go func() {
		answer, err := h.CreateKey(context.Background(), &backends.CreateKeyRequest{Key: cmk, Label: "cmkd:a:1"})
		made <- result{answer, err}
	}()
	for m.Control.Calls("C_GenerateKey") == 0 {
		time.Sleep(time.Millisecond) // polls the module
	}
	if err := syscall.Kill(old, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	m.Control.SetRule("C_GetAttributeValue", shim.Rule{Do: shim.Crash, Times: 1}) // when the key is read back
	if err := syscall.Kill(old, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := <-made; r.err != nil || !r.answer.Existed {
		t.Errorf("CreateKey: %+v, %v", r.answer, r.err)
	}
	if err := h.Reload(t.Context(), s); err != nil { // SoftHSM2 may not show the second to who has made it
		t.Fatal(err)
	}
	list, err := h.ListKeys(t.Context(), &backends.ListKeysRequest{})
	if err != nil || len(list.Objects) != 1 {
		t.Errorf("the token holds %v, %v", list, err)
	}
}

// TestTokenCloseWhileOpening: a process is not killed in the middle of its login,
// with which SoftHSM2 could lose the whole token.
func TestTokenCloseWhileOpening(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	m.Control.Set("C_Login", shim.Delay(300*time.Millisecond))
	h := launch(t, symmetric(t, tok, m.Path, m.Env))
	for m.Control.Calls("C_Login") == 0 {
		time.Sleep(time.Millisecond) // polls the module
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.Control.Calls("C_Finalize") != 1 {
		t.Error("the process was killed before its login had ended")
	}
}

func TestTokenWrongPIN(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	s := symmetric(t, tok, m.Path, m.Env)
	wrong := filepath.Join(shortDir(t), "pin")
	if err := os.WriteFile(wrong, []byte("wrong\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	right := s.Config.PINFile
	s.Config.PINFile = wrong
	s.Config.LoginRecord = filepath.Join(filepath.Dir(wrong), "record")
	h := launch(t, s)
	for range 10 {
		if err := h.Wait(t.Context()); backends.CodeOf(err) != backends.LoginFailed {
			t.Fatalf("with a wrong PIN: %v", err)
		}
	}
	if n := m.Control.Calls("C_Login"); n != 1 {
		t.Errorf("C_Login was called %d times", n)
	}
	s.Config.PINFile = right
	if err := h.Reload(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	create(t, h)
}

// TestLoginIsTriedOnce counts the tries of two plugins that start on one token,
// for answers after which the token may have counted one, and those that say
// nothing about the PIN.
func TestLoginIsTriedOnce(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	m := shim.New(t, tok.Module)
	for _, rv := range []uint{p11.CKR_PIN_EXPIRED, p11.CKR_FUNCTION_FAILED, p11.CKR_VENDOR_DEFINED | 7} {
		before := m.Control.Calls("C_Login")
		m.Control.Set("C_Login", shim.Fail(rv))
		record := filepath.Join(shortDir(t), "record")
		var s plugins.Spec
		for range 2 {
			s = symmetric(t, tok, m.Path, m.Env)
			s.Config.LoginRecord = record
			h := launch(t, s)
			if err := h.Wait(t.Context()); backends.CodeOf(err) != backends.LoginFailed || h.Status().Phase != plugins.LoginFailed {
				t.Errorf("C_Login answers 0x%X: %v, phase %s", rv, err, h.Status().Phase)
			}
		}
		if n := m.Control.Calls("C_Login") - before; n != 1 {
			t.Errorf("C_Login answers 0x%X: it was called %d times", rv, n)
		}
	}
	for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_GENERAL_ERROR} {
		m.Control.SetRule("C_Login", shim.Rule{Do: shim.Fail(rv), Times: 2})
		s := symmetric(t, tok, m.Path, m.Env)
		s.Config.LoginRecord = filepath.Join(shortDir(t), "record")
		h := launch(t, s)
		if err := h.Wait(t.Context()); err != nil {
			t.Errorf("C_Login answers 0x%X twice: %v", rv, err)
		}
	}
}

func TestTokenInAnotherProcess(t *testing.T) {
	t.Parallel()
	tok := p11kit.Start(t, testenv.NewToken(t))
	h := start(t, symmetric(t, tok, "", nil))
	create(t, h)
	if err := roundTrip(t.Context(), h); err != nil {
		t.Error(err)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", h.Status().PID))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "softhsm") {
		t.Error("SoftHSM2 is in the plugin's process")
	}
}
