package pkcs11_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

func wantCode(t testing.TB, what string, err error, want backends.Code) {
	t.Helper()
	if got := backends.CodeOf(err); got != want {
		t.Errorf("%s: %v, want the code %s", what, err, want)
	}
}

func TestOpenRefusals(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		tok.AddToken(t, "twin")
		tok.AddToken(t, "twin")
		file := func(name, text string) string {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		good := config(tok)
		for name, c := range map[string]struct {
			change func(*pkcs11.Config)
			want   backends.Code
		}{
			"good":                 {func(*pkcs11.Config) {}, ""},
			"by serial number":     {func(c *pkcs11.Config) { c.TokenLabel, c.TokenSerial = "", tok.Serial }, ""},
			"by both":              {func(c *pkcs11.Config) { c.TokenSerial = tok.Serial }, ""},
			"PIN without newline":  {func(c *pkcs11.Config) { c.PINFile = file("bare", tok.PIN) }, ""},
			"PIN with CRLF":        {func(c *pkcs11.Config) { c.PINFile = file("crlf", tok.PIN+"\r\n") }, ""},
			"both, one wrong":      {func(c *pkcs11.Config) { c.TokenLabel, c.TokenSerial = "twin", tok.Serial }, backends.Lost},
			"neither":              {func(c *pkcs11.Config) { c.TokenLabel = "" }, backends.Internal},
			"another label":        {func(c *pkcs11.Config) { c.TokenLabel = "nobody" }, backends.Lost},
			"PIN with lines":       {func(c *pkcs11.Config) { c.PINFile = file("lines", tok.PIN+"\n\n\r\n") }, ""},
			"PIN with a tab":       {func(c *pkcs11.Config) { c.PINFile = file("tab", tok.PIN+"\t\n") }, backends.LoginFailed},
			"PIN of two lines":     {func(c *pkcs11.Config) { c.PINFile = file("two", tok.PIN+"\nx\n") }, backends.LoginFailed},
			"PIN with a BOM":       {func(c *pkcs11.Config) { c.PINFile = file("bom", "\ufeff"+tok.PIN) }, backends.LoginFailed},
			"ambiguous":            {func(c *pkcs11.Config) { c.TokenLabel = "twin" }, backends.Internal},
			"no module":            {func(c *pkcs11.Config) { c.Module = "/nonexistent.so" }, backends.Lost},
			"not a module":         {func(c *pkcs11.Config) { c.Module = file("text.so", "text") }, backends.Lost},
			"no PIN file":          {func(c *pkcs11.Config) { c.PINFile = "/nonexistent" }, backends.LoginFailed},
			"empty PIN file":       {func(c *pkcs11.Config) { c.PINFile = file("empty", "\n") }, backends.LoginFailed},
			"too few sessions":     {func(c *pkcs11.Config) { c.MaxSessions = 2 }, backends.Internal},
			"just enough sessions": {func(c *pkcs11.Config) { c.MaxSessions = 3 }, ""},
		} {
			cfg := good
			c.change(&cfg)
			k, err := pkcs11.Open(t.Context(), cfg)
			wantCode(t, name, err, c.want)
			if name == "another label" && !strings.Contains(err.Error(), fmt.Sprintf("%q (serial number %s)", tok.Label, tok.Serial)) {
				t.Errorf("%s: %v, want the labels that there are", name, err)
			}
			if strings.HasPrefix(name, "PIN ") && c.want != "" && strings.Contains(err.Error(), "C_Login") {
				t.Errorf("%s: it was tried: %v", name, err)
			}
			if err != nil {
				if strings.Contains(err.Error(), tok.PIN) {
					t.Errorf("%s: the PIN is in the error", name)
				}
				continue
			}
			if err := k.Close(); err != nil {
				t.Errorf("%s: closing: %v", name, err)
			}
		}
		cfg := good
		cfg.PINFile = file("wrong", "not the PIN\n")
		cfg.LoginRecord = filepath.Join(t.TempDir(), "record")
		_, err := pkcs11.Open(t.Context(), cfg)
		wantCode(t, "wrong PIN", err, backends.LoginFailed)
		if !strings.Contains(err.Error(), "C_Login") {
			t.Errorf("the wrong PIN was not tried: %v", err)
		}
		_, err = pkcs11.Open(t.Context(), cfg)
		wantCode(t, "the wrong PIN again", err, backends.LoginFailed)
		if !strings.Contains(err.Error(), cfg.LoginRecord) {
			t.Errorf("the wrong PIN again: %v, want that it was not tried", err)
		}
		_, err = pkcs11.Open(t.Context(), good)
		wantCode(t, "the right PIN, but nothing known of the wrong one", err, backends.LoginFailed)
		cfg.PINFile = good.PINFile
		for _, what := range []string{"the right PIN after a wrong one", "the right PIN again"} {
			k, err := pkcs11.Open(t.Context(), cfg)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		open(t, tok)
	})
}

// TestTokenLoss changes the token behind the backend's back.
func TestTokenLoss(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewSymmetric(open(t, tok))
		ctx, s := tok.Objects(t)
		key, bystander := newKey(t, b), newKey(t, b)
		encrypt := func(key backends.Key) error {
			_, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
			return err
		}
		wantCode(t, "at first", encrypt(key), "")

		// Another object with the same CKA_ID takes the key's place.
		if err := ctx.DestroyObject(s, find(t, ctx, s, key.ID)); err != nil {
			t.Fatal(err)
		}
		plant(t, tok, key, backendstest.Good)
		wantCode(t, "with a new handle", encrypt(key), "")

		if err := ctx.DestroyObject(s, find(t, ctx, s, key.ID)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, "a known key that is gone", encrypt(key), backends.Lost)

		if err := ctx.Logout(s); err != nil {
			t.Fatal(err)
		}
		for name, key := range map[string]backends.Key{"a known": bystander, "a gone": key, "an unknown": unknownKey()} {
			wantCode(t, name+" key after a logout", encrypt(key), backends.Lost)
		}
		_, err := b.ListKeys(t.Context(), nil)
		wantCode(t, "ListKeys after a logout", err, backends.Lost)
		_, err = b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: unknownKey()})
		wantCode(t, "DestroyKey after a logout", err, backends.Lost)
	})
}

// TestTokenGone takes the token's files away.
func TestTokenGone(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewSymmetric(open(t, tok))
		key, destroyed := newKey(t, b), newKey(t, b)
		tokens := filepath.Join(filepath.Dir(tok.ConfFile), "tokens")
		if err := os.Rename(tokens, tokens+".away"); err != nil {
			t.Fatal(err)
		}
		_, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: destroyed})
		wantCode(t, "destroying a known key", err, backends.Lost)
		for name, key := range map[string]backends.Key{"known": key, "unknown": unknownKey()} {
			_, err = b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
			wantCode(t, "checking a key that was "+name, err, backends.Lost)
			_, err = b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
			wantCode(t, "destroying a key that was "+name, err, backends.Lost)
		}
	})
}

// TestFewSessions shares a single session among callers.
func TestFewSessions(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		cfg := config(tok)
		cfg.MaxSessions = 4
		k, err := pkcs11.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := pkcs11.NewSymmetric(k)
		defer b.Close()
		key := newKey(t, b)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if _, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		info, err := b.Info(t.Context(), nil)
		if err != nil || info.Token.OpenSessions > cfg.MaxSessions {
			t.Errorf("%+v, %v: %d sessions are allowed", info, err, cfg.MaxSessions)
		}
	})
}

// TestManyKeys finds many keys by the list made when the token was opened.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewSymmetric(open(t, tok))
		const keys = 60
		for range keys {
			newKey(t, b)
		}
		fresh := pkcs11.NewSymmetric(open(t, tok))
		info, err := fresh.Info(t.Context(), nil)
		if err != nil || info.Token.Keys != keys {
			t.Errorf("%+v, %v: %d keys are there", info, err, keys)
		}
		list, err := fresh.ListKeys(t.Context(), nil)
		if err != nil || len(list.Objects) != keys {
			t.Fatalf("%+v are listed, %v", list, err)
		}
		for _, o := range list.Objects {
			key := backends.Key{ID: o.ID, Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}
			if _, err := fresh.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func unknownKey() backends.Key {
	key := backends.Key{Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}
	_, _ = rand.Read(key.ID[:]) // never fails
	return key
}

func newKey(t testing.TB, b backends.Backend) backends.Key {
	t.Helper()
	key := unknownKey()
	if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"}); err != nil {
		t.Fatal(err)
	}
	return key
}
