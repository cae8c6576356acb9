package pkcs11_test

import (
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

func TestSymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		supportsAll(t, pkcs11.NewSymmetric(open(t, tok)))
		backendstest.Run(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) }))
	})
}

func TestHMAC(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		supportsAll(t, pkcs11.NewHMAC(open(t, tok)))
		backendstest.Run(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return pkcs11.NewHMAC(k) }))
	})
}

// supportsAll: SoftHSM2 can do all secret keys, and the suite tests what is
// announced as supported only.
func supportsAll(t *testing.T, b backends.Backend) {
	t.Helper()
	info, err := b.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range info.Specs {
		if spec.Unsupported != "" {
			t.Errorf("%s is not supported: %s; probing found %v", spec.Spec, spec.Unsupported, info.Facts)
		}
	}
}

var (
	_ backends.Backend      = (*pkcs11.Symmetric)(nil)
	_ backends.Cipher       = (*pkcs11.Symmetric)(nil)
	_ backends.ReEncrypter  = (*pkcs11.Symmetric)(nil)
	_ backends.DataKeyMaker = (*pkcs11.Symmetric)(nil)
	_ backends.Randomizer   = (*pkcs11.Symmetric)(nil)
	_ backends.Backend      = (*pkcs11.HMAC)(nil)
	_ backends.MACer        = (*pkcs11.HMAC)(nil)
)
