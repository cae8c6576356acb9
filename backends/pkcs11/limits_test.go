package pkcs11_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// limitsOf are the limits that the backend reports, joined.
func limitsOf(t *testing.T, b backends.Backend) string {
	t.Helper()
	info, err := b.Info(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(info.Token.Limits, "; ")
}

// TestTokenWithFewSessions: calls wait for the sessions that the token has. Those that wait
// too long are told so, without harm, and it is over when the token has more.
func TestTokenWithFewSessions(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Sessions(4)
		b := pkcs11.NewSymmetric(open(t, tok))
		key := newKey(t, b)
		encrypt := func(callers int) (errs []error) {
			var mu sync.Mutex
			var wait sync.WaitGroup
			for range callers {
				wait.Go(func() {
					_, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				})
			}
			wait.Wait()
			return errs
		}
		codes := func(errs []error) map[backends.Code]int {
			n := map[backends.Code]int{}
			for _, err := range errs {
				n[backends.CodeOf(err)]++
			}
			return n
		}
		control.Set("C_Encrypt", shim.Delay(20*time.Millisecond))
		if got := codes(encrypt(16)); got[""] != 16 {
			t.Errorf("16 callers with few sessions: %v", got)
		}
		if text := limitsOf(t, b); !strings.Contains(text, "CKR_SESSION_COUNT") {
			t.Errorf("the limits are %q", text)
		}
		control.Set("C_Encrypt", shim.Delay(time.Second))
		if got := codes(encrypt(16)); got[""] == 0 || got[backends.Busy] == 0 || got[""]+got[backends.Busy] != 16 {
			t.Errorf("16 callers with few sessions and slow calls: %v", got)
		}
		control.Clear("C_Encrypt")
		control.Sessions(0)
		pkcs11.AskAgain(b.Token)
		control.Set("C_Encrypt", shim.Delay(20*time.Millisecond))
		for limitsOf(t, b) != "" {
			if got := codes(encrypt(16)); got[""] != 16 {
				t.Fatalf("16 callers with enough sessions: %v", got)
			}
		}
	})
}

// TestShortOfMemory: what the token has no memory for is to be repeated later, and
// not a lost token; only where something is to stay, the token is full.
func TestShortOfMemory(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		b := pkcs11.NewSymmetric(open(t, tok))
		key, w := newKey(t, b), unknownKey()
		w.Spec, w.Usage = backends.AES256, backends.WrapDataKeys
		if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: w, Label: "cmkd:w:1"}); err != nil {
			t.Fatal(err)
		}
		good, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]func() error{
			"Encrypt": func() error {
				_, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
				return err
			},
			"Decrypt": func() error {
				_, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: good.Sealed})
				return err
			},
			"data key": func() error {
				_, err := b.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: 32})
				return err
			},
			"CreateKey": func() error {
				_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: unknownKey(), Label: "cmkd:test:1"})
				return err
			},
		}
		for _, c := range []struct {
			call, function string
			rv             uint
			want           backends.Code
		}{
			{"Encrypt", "C_EncryptInit", p11.CKR_DEVICE_MEMORY, backends.Busy},
			{"Encrypt", "C_Encrypt", p11.CKR_HOST_MEMORY, backends.Busy},
			{"Decrypt", "C_DecryptInit", p11.CKR_DEVICE_MEMORY, backends.Busy},
			{"Decrypt", "C_Decrypt", p11.CKR_DEVICE_MEMORY, backends.Busy},
			{"data key", "C_GenerateKey", p11.CKR_DEVICE_MEMORY, backends.Busy},
			{"data key", "C_WrapKey", p11.CKR_DEVICE_MEMORY, backends.Busy},
			{"CreateKey", "C_GenerateKey", p11.CKR_DEVICE_MEMORY, backends.TokenFull},
			{"CreateKey", "C_GenerateKey", p11.CKR_HOST_MEMORY, backends.Busy},
			{"CreateKey", "C_GenerateKey", p11.CKR_GENERAL_ERROR, backends.TokenFull},
			{"CreateKey", "C_GenerateKey", p11.CKR_DEVICE_ERROR, backends.Lost},
			{"CreateKey", "C_GenerateKey", p11.CKR_TOKEN_WRITE_PROTECTED, backends.TokenReadOnly},
		} {
			control.Set(c.function, shim.Fail(c.rv))
			err := calls[c.call]()
			wantCode(t, c.call+" when "+c.function+" answers "+p11.Error(c.rv).Error(), err, c.want)
			if err != nil && strings.Count(err.Error(), "(CKR 0x") != 1 {
				t.Errorf("an operator reads %q", err)
			}
			control.Clear(c.function)
			if c.want == backends.TokenFull && limitsOf(t, b) == "" {
				t.Errorf("a full token is no limit")
			}
			if err := calls[c.call](); err != nil {
				t.Errorf("%s afterwards: %v", c.call, err)
			}
		}
		r := newImportRig(tok, b)
		pair := r.pair(t, backends.RSA2048)
		in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, "RSAES_OAEP_SHA_1", wrap(t, pair.public, "RSAES_OAEP_SHA_1", randomOf(t, 32)))
		for _, rv := range []uint{p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_MEMORY} {
			control.RefuseObjects(rv)
			_, err := b.ImportKey(t.Context(), in)
			wantCode(t, "an import that stays nowhere", err, backends.TokenFull)
		}
		control.RefuseObjects(p11.CKR_OK)
		if _, err := b.ImportKey(t.Context(), in); err != nil {
			t.Errorf("an import afterwards: %v", err)
		}
		if text := limitsOf(t, b); text != "" {
			t.Errorf("limits after all is over: %q", text)
		}
	})
}

// TestObjectsDoNotStay: a token that makes session objects and none that stay is not lost,
// however it answers, and everything is as before when it makes them again.
func TestObjectsDoNotStay(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		k := open(t, tok)
		a, s := asymmetric(t, k), pkcs11.NewSymmetric(k)
		r := newImportRig(tok, s)
		pair := r.pair(t, backends.RSA2048)
		ctx, session := tok.Objects(t)
		create := func(b backends.Backend, spec backends.KeySpec, usage backends.Usage) func() error {
			return func() error {
				_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: randomID(), Spec: spec, Usage: usage}, Label: "cmkd:test:1"})
				return err
			}
		}
		for what, call := range map[string]func() error{
			"a key":           create(s, backends.SymmetricDefault, backends.EncryptDecrypt),
			"a pair":          create(a, backends.P256, backends.SignVerify),
			"a wrapping pair": create(s, backends.RSA2048, backends.UnwrapImport),
			"an import": func() error {
				in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, "RSAES_OAEP_SHA_1", wrap(t, pair.public, "RSAES_OAEP_SHA_1", randomOf(t, 32)))
				_, err := s.ImportKey(t.Context(), in)
				return err
			},
		} {
			for _, rv := range []uint{p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED} {
				before := len(allObjects(t, ctx, session))
				control.RefuseObjects(rv)
				wantCode(t, what+" when the answer is "+p11.Error(rv).Error(), call(), backends.TokenFull)
				if text := limitsOf(t, s); !strings.Contains(text, "no object is made") {
					t.Errorf("the limits are %q", text)
				}
				control.RefuseObjects(p11.CKR_OK)
				if n := len(allObjects(t, ctx, session)) - before; n != 0 {
					t.Errorf("%s has left %d objects", what, n)
				}
				wantCode(t, what+" afterwards", call(), "")
			}
		}
		if text := limitsOf(t, s); text != "" {
			t.Errorf("limits after all is over: %q", text)
		}
	})
}

// TestWriteProtected opens a token that has read-only sessions alone: it does what
// needs no new object.
func TestWriteProtected(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		k, err := pkcs11.Open(t.Context(), config(tok))
		if err != nil {
			t.Fatal(err)
		}
		b := pkcs11.NewSymmetric(k)
		key, w := newKey(t, b), unknownKey()
		w.Spec, w.Usage = backends.AES256, backends.WrapDataKeys
		if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: w, Label: "cmkd:w:1"}); err != nil {
			t.Fatal(err)
		}
		want := limitsOf(t, b)
		info, err := b.Info(t.Context(), nil)
		if err != nil || want != "" {
			t.Fatalf("limits %q, %v", want, err)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		control.ReadOnly(true)
		b = pkcs11.NewSymmetric(open(t, tok))
		now, err := b.Info(t.Context(), nil)
		if err != nil || !slices.ContainsFunc(now.Token.Limits, func(s string) bool { return strings.Contains(s, "write-protected") }) {
			t.Errorf("the limits are %+v, %v", now, err)
		}
		for name, fact := range info.Facts {
			if now.Facts[name] != fact {
				t.Errorf("%s is %s with write protection, %s without", name, now.Facts[name], fact)
			}
		}
		sealed, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: sealed.Sealed}); err != nil {
			t.Error(err)
		}
		if _, err := b.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: 32}); err != nil {
			t.Error(err)
		}
		_, err = b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: unknownKey(), Label: "cmkd:test:1"})
		wantCode(t, "CreateKey", err, backends.TokenReadOnly)
		_, err = b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
		wantCode(t, "DestroyKey", err, backends.TokenReadOnly)
		if _, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: unknownKey()}); err != nil {
			t.Errorf("destroying what is not there: %v", err)
		}

		// Writable again, it makes keys with sessions that it has opened since.
		control.ReadOnly(false)
		for made := false; !made; {
			_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: unknownKey(), Label: "cmkd:test:1"})
			if made = err == nil; !made {
				wantCode(t, "CreateKey while sessions are read-only", err, backends.TokenReadOnly)
				time.Sleep(10 * time.Millisecond)
			}
		}
		if text := limitsOf(t, b); text != "" {
			t.Errorf("limits of a writable token: %q", text)
		}
	})
}
