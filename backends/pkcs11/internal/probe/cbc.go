package probe

import (
	"bytes"
	"crypto/aes"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// cbcWrapping compares CKM_AES_CBC_PAD, wrapping a key whose length is not a
// multiple of 8, with Go's AES.
func (b *prober) cbcWrapping() error {
	const fact = "wrap-aes-cbc-pad"
	kek, value, rv := b.known(p11.CKK_AES, 32, p11.CKA_WRAP)
	if rv != p11.CKR_OK {
		b.fact(fact, "not probed: no key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	data, dataValue, rv := b.known(p11.CKK_GENERIC_SECRET, 33)
	if rv != p11.CKR_OK {
		b.fact(fact, "not probed: no data key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	iv, out := bytes.Clone(KnownKey[:aes.BlockSize]), make([]byte, 128)
	r := b.s.WrapKey(b.s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_CBC_PAD, Parameter: iv}, kek, data, out)
	if r.RV != p11.CKR_OK {
		b.fact(fact, "no: "+token.RVName(r.RV))
		return token.Fatal("C_WrapKey", r.RV)
	}
	want, err := der.EncryptCBC(value, iv, dataValue)
	if err != nil {
		return err
	}
	b.WrapCBCPad = bytes.Equal(out[:r.N], want)
	b.fact(fact, token.Yes(b.WrapCBCPad))
	return nil
}
