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
		backendstest.Run(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) }))
	})
}

func TestHMAC(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		backendstest.Run(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return pkcs11.NewHMAC(k) }))
	})
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
