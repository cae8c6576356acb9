package pkcs11_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestUntriedSecrets opens a token that gives generic secrets away, and makes none for a moment:
// what could not be tried is not served.
func TestUntriedSecrets(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		// Keys of known value would be tried instead.
		control.Set("C_CreateObject", shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID))
		before := control.Calls("C_GenerateKey")
		open(t, tok)
		made := control.Calls("C_GenerateKey") - before
		control.Manners(shim.ReadsGenericSecrets)
		var unsafe, opened int
		for i := range made {
			control.SetRule("C_GenerateKey", shim.Rule{Do: shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID), Skip: i, Times: 4})
			k, err := pkcs11.Open(t.Context(), config(tok))
			control.Clear("C_GenerateKey")
			if err != nil {
				wantCode(t, "a token that gives generic secrets away", err, backends.KeyUnsafe)
				unsafe++
				continue
			}
			opened++
			key := backends.Key{ID: randomID(), Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC}
			_, err = pkcs11.NewHMAC(k).CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"})
			wantCode(t, "an HMAC key, of which none was tried", err, backends.Unsupported)
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		if unsafe == 0 || opened == 0 {
			t.Errorf("of %d tokens %d are unsafe and %d were opened: the failing calls were never those that are tried, or always", made, unsafe, opened)
		}
	})
}
