package pkcs11_test

import (
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// TestAside opens a token whose AES keys another process serves: their attributes are not
// read, and the keys of this one are used, listed and destroyed as ever.
func TestAside(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		others := pkcs11.NewSymmetric(open(t, tok))
		const aside = 20
		for range aside {
			newKey(t, others)
		}
		key := unknownKey()
		key.Spec, key.Usage = backends.HMAC256, backends.GenerateVerifyMAC
		if _, err := pkcs11.NewHMAC(open(t, tok)).CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"}); err != nil {
			t.Fatal(err)
		}

		cfg := config(tok)
		read := func(keys pkcs11.Keys) (*pkcs11.Token, uint64) {
			before := control.Calls("C_GetAttributeValue")
			cfg.Aside = keys
			token, err := pkcs11.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = token.Close() })
			return token, control.Calls("C_GetAttributeValue") - before
		}
		_, all := read(pkcs11.NoKeys)
		if _, some := read(pkcs11.SecretKeys); some != all-aside-1 {
			t.Errorf("opening reads attributes %d times, and %d times without %d secret keys", all, some, aside+1)
		}
		token, some := read(pkcs11.AESKeys)
		if some != all-aside {
			t.Errorf("opening reads attributes %d times, and %d times without %d AES keys", all, some, aside)
		}

		b := pkcs11.NewHMAC(token)
		searches := func(do func() error) uint64 {
			t.Helper()
			before := control.Calls("C_FindObjectsInit")
			if err := do(); err != nil {
				t.Fatal(err)
			}
			return control.Calls("C_FindObjectsInit") - before
		}
		list := func(known bool) func() error {
			return func() error {
				answer, err := b.ListKeys(t.Context(), &backends.ListKeysRequest{Known: known})
				if want := map[bool]int{true: 1, false: aside + 1}[known]; err == nil && len(answer.Objects) != want {
					t.Errorf("%d keys are listed, want %d (known: %v)", len(answer.Objects), want, known)
				}
				return err
			}
		}
		if n := searches(list(true)); n != 0 {
			t.Errorf("listing what is known searches %d times", n)
		}
		if n := searches(func() error {
			_, err := b.GenerateMAC(t.Context(), &backends.MACRequest{Key: key, Algorithm: "HMAC_SHA_256", Message: []byte("x")})
			return err
		}); n != 0 {
			t.Errorf("using a key searches %d times", n)
		}
		if n := searches(list(false)); n != 1 {
			t.Errorf("listing all searches %d times", n)
		}
		if n := searches(func() error {
			answer, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
			if err == nil && answer.Objects != 1 {
				t.Errorf("%d objects are destroyed, want 1", answer.Objects)
			}
			return err
		}); n != 1 {
			t.Errorf("destroying a key that is known searches %d times, want once, for the proof", n)
		}
		if found, err := others.ListKeys(t.Context(), nil); err != nil || len(found.Objects) != aside {
			t.Errorf("%d keys are left, %v, want %d", len(found.Objects), err, aside)
		}
	})
}
