package pkcs11_test

import (
	"slices"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestNoSessionPairs: of a token that makes no pairs as session objects the mechanisms that
// it lists are not called missing, and those that it does not list are.
func TestNoSessionPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for _, function := range []string{"C_GenerateKeyPair", "C_CreateObject"} {
			control.Set(function, shim.Fail(p11.CKR_ATTRIBUTE_VALUE_INVALID))
		}
		b, err := pkcs11.NewAsymmetric(t.Context(), open(t, tok))
		if err != nil {
			t.Fatal(err)
		}
		info, err := b.Info(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P256, backends.P384, backends.Ed25519, backends.MLDSA44} {
			i := slices.IndexFunc(info.Specs, func(s backends.SpecInfo) bool { return s.Spec == spec })
			listed := spec != backends.MLDSA44
			if got := info.Specs[i].Unsupported; got == "" || listed != strings.HasPrefix(got, "session objects (CKA_TOKEN false) of CKM_") {
				t.Errorf("%s: the token lacks %q", spec, got)
			}
			_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{
				Key: backends.Key{ID: randomID(), Spec: spec, Usage: backends.SignVerify}, Label: "cmkd:x:1",
			})
			wantCode(t, string(spec), err, backends.Unsupported)
		}
		for fact, want := range map[string]string{
			"session-key-pairs":       "no, although the token lists mechanisms for key pairs",
			"sign-ECDSA_SHA_256":      "not probed: no session key pair",
			"sign-RSASSA_PSS_SHA_256": "not probed: no session key pair",
			"sign-ML_DSA_SHAKE_256":   "no: CKM_ML_DSA",
		} {
			if got := info.Facts[fact]; got != want {
				t.Errorf("%s is %q, want %q", fact, got, want)
			}
		}
	})
}
