package pkcs11

import (
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"

	// key identifiers only
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// What AWS KMS encrypts to an attested recipient by, the one form that Nitro's
// own library reads: RSAES-OAEP with SHA-256 for the key, AES-256-CBC with PKCS #7
// padding for the content.
const cmsRecipientAlgorithm = "RSAES_OAEP_SHA_256"

// sealCMS makes the EnvelopedData of a plaintext that is in this process anyway.
func sealCMS(public *rsa.PublicKey, h token.OAEPHash, plaintext []byte) ([]byte, error) {
	cek, iv := make([]byte, token.KEKLength), make([]byte, aes.BlockSize)
	defer clear(cek)
	_, _ = rand.Read(cek) // never fails: crypto/rand
	_, _ = rand.Read(iv)
	key, err := token.EncryptOAEP(public, h, cek)
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
func (t *Token) wrapCMS(s *token.Session, r *recipient, key cryptoki.Object) ([]byte, error) {
	cek, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		t.Profile.SessionKey(p11.CKK_AES, token.KEKLength, true, p11.CKA_WRAP))
	if err := s.Check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	defer s.Destroy(cek)
	wrapped, err := t.wrapUnder(s, r, cek)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, aes.BlockSize)
	_, _ = rand.Read(iv) // never fails: crypto/rand
	content, err := s.Wrap(cryptoki.Mechanism{Type: p11.CKM_AES_CBC_PAD, Parameter: iv}, cek, key, token.MaxWrapped)
	if err != nil {
		return nil, err
	}
	return der.EnvelopedData(r.key.public, wrapped, iv, content)
}
