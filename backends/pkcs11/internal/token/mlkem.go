package token

import (
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// sharedSecret is the length in bytes of what ML-KEM agrees on (FIPS 203).
const sharedSecret = 32

// Encapsulate is C_EncapsulateKey with a public key of kind k, and the secret read.
func Encapsulate(p *Profile, s *Session, k *der.Kind, public cryptoki.Object) (secret, ciphertext []byte, err error) {
	out := make([]byte, k.Ciphertext)
	o, r := s.EncapsulateKey(s.Handle, cryptoki.Mechanism{Type: cryptoki.CKMMLKEM}, public, secretTemplate(p), out)
	if err := s.Check("C_EncapsulateKey", r.RV); err != nil {
		return nil, nil, err
	}
	defer s.Destroy(o)
	if r.N != len(out) {
		return nil, nil, backends.Errorf(backends.Internal, "C_EncapsulateKey wrote %d bytes, not %d", r.N, len(out))
	}
	secret, err = s.Read(o, sharedSecret, sharedSecret)
	return secret, out, err
}

// Decapsulate is C_DecapsulateKey, and the secret read.
func Decapsulate(p *Profile, s *Session, private cryptoki.Object, ciphertext []byte) ([]byte, error) {
	o, rv := s.DecapsulateKey(s.Handle, cryptoki.Mechanism{Type: cryptoki.CKMMLKEM}, private, ciphertext, secretTemplate(p))
	if err := s.Check("C_DecapsulateKey", rv); err != nil {
		return nil, err
	}
	defer s.Destroy(o)
	return s.Read(o, sharedSecret, sharedSecret)
}

// secretTemplate is the template of a secret that is to be read.
func secretTemplate(p *Profile) cryptoki.Template {
	return p.SessionKey(p11.CKK_GENERIC_SECRET, sharedSecret, false)
}
