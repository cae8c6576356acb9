package pkcs11_test

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestLoginAnswers says which answers of C_Login end all tries: those after which
// the token may have counted one.
func TestLoginAnswers(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for code, rvs := range map[backends.Code][]uint{
			backends.LoginFailed: {
				p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_LOCKED,
				p11.CKR_FUNCTION_FAILED, p11.CKR_ARGUMENTS_BAD, p11.CKR_DATA_INVALID, p11.CKR_DATA_LEN_RANGE,
				p11.CKR_FUNCTION_CANCELED, p11.CKR_FUNCTION_REJECTED, p11.CKR_ENCRYPTED_DATA_INVALID,
				0x1234, p11.CKR_VENDOR_DEFINED | 7,
			},
			backends.Lost: {
				p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT,
				p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_PIN_NOT_INITIALIZED,
			},
		} {
			for _, rv := range rvs {
				control.Set("C_Login", shim.Fail(rv))
				_, err := pkcs11.Open(t.Context(), config(tok))
				if backends.CodeOf(err) != code {
					t.Errorf("C_Login answers 0x%X: %v, want %s", rv, err, code)
				}
			}
		}
		control.Clear("C_Login")
		open(t, tok)
	})
}

// TestAdvice: an error of opening a token says what to do, and no CK_RV without its name.
func TestAdvice(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		says := func(what string, cfg pkcs11.Config, texts ...string) {
			t.Helper()
			_, err := pkcs11.Open(t.Context(), cfg)
			for _, text := range texts {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%s: %v, want %q", what, err, text)
				}
			}
			if err != nil && strings.Contains(err.Error(), "CKR 0x") && !strings.Contains(err.Error(), "CKR_") {
				t.Errorf("%s: a number without its name: %v", what, err)
			}
		}
		for _, c := range []struct {
			function string
			rv       uint
			texts    []string
		}{
			{"C_Login", p11.CKR_PIN_INCORRECT, []string{"CKR_PIN_INCORRECT", tok.PINFile}},
			{"C_Login", p11.CKR_USER_PIN_NOT_INITIALIZED, []string{"CKR_USER_PIN_NOT_INITIALIZED", "C_InitPIN"}},
			{"C_Initialize", p11.CKR_GENERAL_ERROR, []string{"C_Initialize of module", "CKR_GENERAL_ERROR", "sandbox", "off = true"}},
			{"C_Initialize", p11.CKR_ARGUMENTS_BAD, []string{"pReserved", "NSS"}},
		} {
			control.Set(c.function, shim.Fail(c.rv))
			says(c.function+" answers "+p11.Error(c.rv).Error(), config(tok), c.texts...)
			control.Clear(c.function)
		}
		other := config(tok)
		other.TokenLabel = "none"
		says("another label", other, "no token with label", tok.Label)
		none := config(tok)
		none.Module = "/etc/hostname"
		says("no library", none, "is it a PKCS#11 library")
		tok.Run(t, "softhsm2-util", "--init-token", "--free", "--label", tok.Label, "--pin", "12345678", "--so-pin", "12345678")
		says("two tokens of one label", config(tok), "--token-serial", "serial in its [[token]]")
	})
}

// TestKeypad: a token that wants its PIN by a keypad is asked once, and the error says
// what is the matter; one that takes it from programs, too, is served.
func TestKeypad(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Flags(p11.CKF_PROTECTED_AUTHENTICATION_PATH)
		open(t, tok)
		control.Set("C_Login", shim.Fail(p11.CKR_ARGUMENTS_BAD))
		tries := control.Calls("C_Login")
		cfg := config(tok)
		cfg.LoginRecord = filepath.Join(t.TempDir(), "record")
		_, err := pkcs11.Open(t.Context(), cfg)
		if backends.CodeOf(err) != backends.LoginFailed || !strings.Contains(err.Error(), "keypad") {
			t.Errorf("a token with a keypad: %v", err)
		}
		if _, err := pkcs11.Open(t.Context(), cfg); backends.CodeOf(err) != backends.LoginFailed || control.Calls("C_Login") != tries+1 {
			t.Errorf("the second time: %v, after %d tries", err, control.Calls("C_Login")-tries)
		}
	})
}

// TestLoginUnwritten: no login is tried that could not be remembered.
func TestLoginUnwritten(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		cfg := config(tok)
		cfg.LoginRecord = filepath.Join(t.TempDir(), "record")
		before := control.Calls("C_Login")
		signal.Ignore(unix.SIGXFSZ) // no file may grow: EFBIG, as a full disk
		var was unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		_, err := pkcs11.Open(t.Context(), cfg)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		if n := control.Calls("C_Login") - before; err == nil || !strings.Contains(err.Error(), "not logging in") || n != 0 {
			t.Errorf("%v, after %d tries", err, n)
		}
		k, err := pkcs11.Open(t.Context(), cfg)
		if err != nil {
			t.Fatalf("when there is room: %v", err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestNobodyLooksDuringALogin: SoftHSM2 empties the file of a token for a moment
// when somebody logs in. A module that is initialised just then shows no token.
func TestNobodyLooksDuringALogin(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		cfg := config(tok)
		cfg.LoginRecord = filepath.Join(t.TempDir(), "record")
		record, err := os.Create(cfg.LoginRecord)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(record.Fd()), unix.LOCK_EX); err != nil { // as who logs in
			t.Fatal(err)
		}
		before := control.Calls("C_Initialize")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err = pkcs11.Open(ctx, cfg)
		wantCode(t, "opening while another process logs in", err, backends.Timeout)
		if n := control.Calls("C_Initialize") - before; n != 0 {
			t.Errorf("the module was initialised %d times meanwhile", n)
		}
		if err := record.Close(); err != nil {
			t.Fatal(err)
		}
		k, err := pkcs11.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestLoginIsWrittenDownFirst: processes that end in C_Login have logged in all the same. The
// second such login in a row is the last, and an answer between them starts the count again.
func TestLoginIsWrittenDownFirst(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		cfg := config(tok)
		cfg.LoginRecord = filepath.Join(t.TempDir(), "record")
		// lost is a login whose process ends in the call: this process goes on, and so
		// it brings back what was in the file meanwhile.
		lost := func() {
			t.Helper()
			before := control.Calls("C_Login")
			control.SetRule("C_Login", shim.Rule{Do: shim.Delay(time.Second), Times: 1})
			done := make(chan error)
			go func() {
				k, err := pkcs11.Open(t.Context(), cfg)
				if err == nil {
					err = k.Close()
				}
				done <- err
			}()
			for control.Calls("C_Login") == before {
				time.Sleep(time.Millisecond)
			}
			meanwhile, err := os.ReadFile(cfg.LoginRecord)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(cfg.LoginRecord, meanwhile, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		answered := func() {
			t.Helper()
			k, err := pkcs11.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		lost()
		control.SetRule("C_Login", shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR), Times: 1})
		_, err := pkcs11.Open(t.Context(), cfg)
		wantCode(t, "a login that says nothing about the PIN", err, backends.Lost)
		lost()
		lost()
		before := control.Calls("C_Login")
		_, err = pkcs11.Open(t.Context(), cfg)
		wantCode(t, "after two logins without an answer", err, backends.LoginFailed)
		if n := control.Calls("C_Login") - before; n != 0 || !strings.Contains(err.Error(), cfg.LoginRecord) {
			t.Errorf("after two logins without an answer: %v, after %d more", err, n)
		}
		if err := os.Remove(cfg.LoginRecord); err != nil {
			t.Fatal(err)
		}
		// That somebody is logged in says nothing of this PIN.
		control.SetRule("C_Login", shim.Rule{Do: shim.Fail(p11.CKR_USER_ALREADY_LOGGED_IN), Times: 1})
		_, err = pkcs11.Open(t.Context(), cfg)
		wantCode(t, "logged in already, and not", err, backends.Lost)
		answered()

		// The PIN that the token took is tried as often as it has to be, until there is another in the file.
		for range 4 {
			lost()
		}
		answered()
		pin, err := os.ReadFile(cfg.PINFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.PINFile, pin, 0o600); err != nil {
			t.Fatal(err)
		}
		lost()
		lost()
		_, err = pkcs11.Open(t.Context(), cfg)
		wantCode(t, "two logins without an answer with another file", err, backends.LoginFailed)
	})
}
