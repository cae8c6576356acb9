package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"

	// key identifiers only
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// What AWS KMS encrypts to an attested recipient by, the one form that Nitro's
// own library reads: RSAES-OAEP with SHA-256 for the key, AES-256-CBC with PKCS #7
// padding for the content.
const cmsRecipientAlgorithm = "RSAES_OAEP_SHA_256"

// sealCMS makes the EnvelopedData of a plaintext that is in this process anyway.
func sealCMS(public *rsa.PublicKey, h oaepHash, plaintext []byte) ([]byte, error) {
	cek, iv := make([]byte, kekLength), make([]byte, aes.BlockSize)
	defer clear(cek)
	_, _ = rand.Read(cek) // never fails: crypto/rand
	_, _ = rand.Read(iv)
	key, err := oaep(public, h, cek)
	if err != nil {
		return nil, err
	}
	content, err := der.EncryptCBC(cek, iv, plaintext)
	if err != nil {
		return nil, err
	}
	return der.EnvelopedData(public, key, iv, content)
}

// wrapCMS makes the EnvelopedData of a key in the token: the key is wrapped with
// CKM_AES_CBC_PAD under a fresh session key, and that with OAEP under the
// recipient's. Neither leaves the token in the clear.
func (t *Token) wrapCMS(s *session, r *recipient, key cryptoki.Object) ([]byte, error) {
	cek, rv := s.GenerateKey(s.handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		t.profile.sessionKey(p11.CKK_AES, kekLength, true, p11.CKA_WRAP))
	if err := s.check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	defer s.destroy(cek)
	wrapped, err := t.wrapUnder(s, r, cek)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, aes.BlockSize)
	_, _ = rand.Read(iv) // never fails: crypto/rand
	content, err := s.wrap(cryptoki.Mechanism{Type: p11.CKM_AES_CBC_PAD, Parameter: iv}, cek, key, maxWrapped)
	if err != nil {
		return nil, err
	}
	return der.EnvelopedData(r.key.public, wrapped, iv, content)
}

// cbcWrapping compares CKM_AES_CBC_PAD, wrapping a key whose length is not a
// multiple of 8, with Go's AES.
func (b *prober) cbcWrapping() error {
	const fact = "wrap-aes-cbc-pad"
	kek, value, rv := b.known(p11.CKK_AES, 32, p11.CKA_WRAP)
	if rv != p11.CKR_OK {
		b.fact(fact, "not probed: no key of known value: "+rvName(rv))
		return fatal("C_CreateObject", rv)
	}
	data, dataValue, rv := b.known(p11.CKK_GENERIC_SECRET, 33)
	if rv != p11.CKR_OK {
		b.fact(fact, "not probed: no data key of known value: "+rvName(rv))
		return fatal("C_CreateObject", rv)
	}
	iv, out := bytes.Clone(probeKey[:aes.BlockSize]), make([]byte, 128)
	r := b.s.WrapKey(b.s.handle, cryptoki.Mechanism{Type: p11.CKM_AES_CBC_PAD, Parameter: iv}, kek, data, out)
	if r.RV != p11.CKR_OK {
		b.fact(fact, "no: "+rvName(r.RV))
		return fatal("C_WrapKey", r.RV)
	}
	want, err := der.EncryptCBC(value, iv, dataValue)
	if err != nil {
		return err
	}
	b.wrapCBCPad = bytes.Equal(out[:r.N], want)
	b.fact(fact, yes(b.wrapCBCPad))
	return nil
}
