package tokens_test

import (
	"os"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// TestSuite runs the suite of all backends on the token that CMKD_TEST_TOKEN chooses. A
// token that is refused whatever is asked of it has nothing to run it on. Without the
// variable there are the tests of backends/pkcs11.
func TestSuite(t *testing.T) {
	if os.Getenv(testenv.Variable) == "" {
		return
	}
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		open := func(t testing.TB) *pkcs11.Token {
			t.Helper()
			k, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile})
			if backends.CodeOf(err) == backends.KeyUnsafe {
				t.Logf("refused: %v", err)
				return nil
			}
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		k := open(t)
		if k == nil {
			return
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		for name, backend := range map[string]func(testing.TB, *pkcs11.Token) backends.Backend{
			"symmetric": func(_ testing.TB, k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) },
			"hmac":      func(_ testing.TB, k *pkcs11.Token) backends.Backend { return pkcs11.NewHMAC(k) },
			"asymmetric": func(t testing.TB, k *pkcs11.Token) backends.Backend {
				t.Helper()
				b, err := pkcs11.NewAsymmetric(t.Context(), k)
				if err != nil {
					t.Fatal(err)
				}
				return b
			},
		} {
			t.Run(name, func(t *testing.T) {
				rig := chosen(t)
				backendstest.Run(t, backendstest.Rig{Few: rig.Few, Frail: rig.Frail, Open: func(t testing.TB) backends.Backend {
					t.Helper()
					return backend(t, open(t))
				}})
			})
		}
	})
}
