package pkcs11_test

import (
	"os"
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/p11kit"
)

// TestManyInstances: a module of which each C_GetFunctionList gives another instance, as
// p11-kit's client does, is used by one of them.
func TestManyInstances(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		remote := p11kit.Plain(t, tok)
		if err := os.Unsetenv("SOFTHSM2_CONF"); err != nil {
			t.Fatal(err)
		}
		setenv(t, remote.Env)
		for range 2 { // again, after C_Finalize
			k, err := pkcs11.Open(t.Context(), config(remote))
			if err != nil {
				t.Fatal(err)
			}
			a := asymmetric(t, k)
			key, _ := newPair(t, a, backends.P256, backends.SignVerify)
			signVerify(t, a, key, firstAlgorithm[backends.P256])
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
