package token

import (
	"bytes"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// RSAPrivatePublic returns the SubjectPublicKeyInfo of an RSA private key,
// nothing if it has no CKA_PUBLIC_EXPONENT.
func (s *Session) RSAPrivatePublic(k *der.Kind, private cryptoki.Object) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, maxModulus)
	q.Ask(p11.CKA_PUBLIC_EXPONENT, maxModulus) // imported ones have any length
	if err := s.Attributes(private, &q); err != nil {
		return nil, err
	}
	if e, ok := q.Value(p11.CKA_PUBLIC_EXPONENT); !ok || len(e) == 0 {
		return nil, nil
	}
	return rsaPublicKey(&q, int(k.Bits))
}

// Wrap is C_WrapKey with room for size bytes.
func (s *Session) Wrap(m cryptoki.Mechanism, wrapping, key cryptoki.Object, size int) ([]byte, error) {
	out := make([]byte, size)
	r := s.WrapKey(s.Handle, m, wrapping, key, out)
	if err := s.Check("C_WrapKey", r.RV); err != nil {
		return nil, err
	}
	return out[:r.N:r.N], nil
}

// Destroy removes session objects. If one stays, the session goes.
func (s *Session) Destroy(objects ...cryptoki.Object) {
	for _, o := range objects {
		if s.DestroyObject(s.Handle, o) != p11.CKR_OK {
			s.Broken = true
		}
	}
}

// EdwardsPublic reads the public key from an Ed25519 private key.
func (s *Session) EdwardsPublic(k *der.Kind, private cryptoki.Object) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_PUBLIC_KEY_INFO, 256) // PKCS#11 2.40 Base, section 4.9
	q.Ask(p11.CKA_EC_POINT, 64)
	if err := s.Attributes(private, &q); err != nil {
		return nil, err
	}
	if encoded, ok := q.Value(p11.CKA_PUBLIC_KEY_INFO); ok && len(encoded) > 0 {
		return bytes.Clone(encoded), nil
	}
	point, _ := q.Value(p11.CKA_EC_POINT)
	return k.ECPublicKey(point)
}

// Signature signs what input returned, and encodes the signature.
func (s *Session) Signature(a *der.Signing, key cryptoki.Object, k *der.Kind, input []byte) ([]byte, error) {
	out := make([]byte, a.Length(k))
	r := s.Sign(s.Handle, key, a.CKM(), a.TokenInput(input), out)
	if err := s.Check("C_Sign", r.RV); err != nil {
		return nil, err
	}
	if r.N != len(out) {
		s.Broken = true
		return nil, backends.Errorf(backends.Internal, "C_Sign wrote %d bytes, not %d", r.N, len(out))
	}
	if a.Scheme == der.ECDSADER {
		return der.MarshalECDSA(out)
	}
	return out, nil
}

// RawRSA is CKM_RSA_X_509, which fills encoded.
func (s *Session) RawRSA(key cryptoki.Object, ciphertext, encoded []byte) error {
	r := s.Decrypt(s.Handle, key, cryptoki.Mechanism{Type: p11.CKM_RSA_X_509}, ciphertext, encoded)
	switch err := s.CheckInput("C_Decrypt", r); {
	case backends.CodeOf(err) == backends.InvalidCiphertext: // it was not larger than the modulus
		return &backends.Error{Code: backends.Internal, Message: "C_Decrypt with CKM_RSA_X_509" + NameOf(r.RV), RV: r.RV}
	case err != nil:
		return err
	}
	if missing := len(encoded) - r.N; missing > 0 { // some tokens drop leading zeros
		copy(encoded[missing:], encoded[:r.N])
		clear(encoded[:missing])
	}
	return nil
}

// Read returns the first length bytes of CKA_VALUE, of at most room.
func (s *Session) Read(o cryptoki.Object, length, room int) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, room)
	defer q.Reset()
	if err := s.Check("C_GetAttributeValue", s.GetAttributes(s.Handle, o, &q)); err != nil {
		return nil, err
	}
	v, ok := q.Value(p11.CKA_VALUE)
	if !ok || len(v) < length {
		return nil, ShortKeyError{backends.Errorf(backends.Internal, "C_GetAttributeValue gave %d bytes of a data key, not %d", len(v), length)}
	}
	return append([]byte(nil), v[:length]...), nil
}

// ShortKeyError is the error of read if the value is shorter than that.
type ShortKeyError struct{ error }

// Unwrap lets the code be found.
func (e ShortKeyError) Unwrap() error { return e.error }

// KEKLength is the length in bytes of the AES-256 key between OAEP and what is
// too long for OAEP.
const KEKLength = 32

// MaxWrapped is room for the longest key there is, the PKCS #8 form of an
// RSA-4096 key, wrapped.
const MaxWrapped = 4096
