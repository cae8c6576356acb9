package pkcs11

import (
	"bytes"
	"cmp"
	"context"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// sharedSecret is the length in bytes of what ML-KEM agrees on (FIPS 203).
const sharedSecret = 32

// Encapsulate implements [backends.Encapsulator], with the public key object in
// the token.
func (b *Asymmetric) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	u, err := b.encapsulating(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	answer := &backends.EncapsulateAnswer{}
	err = b.withObject(ctx, ref{in.Key.ID, p11.CKO_PUBLIC_KEY}, func(s *session, public cryptoki.Object) error {
		answer.SharedSecret, answer.Ciphertext, err = b.profile.encapsulate(s, u.pair, public)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Decapsulate implements [backends.Encapsulator]. A ciphertext of the right length
// always gives a secret: ML-KEM rejects implicitly.
func (b *Asymmetric) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	u, err := b.encapsulating(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	if len(in.Ciphertext) != u.pair.Ciphertext {
		return nil, invalidCiphertext()
	}
	answer := &backends.DecapsulateAnswer{}
	decapsulate := func(ciphertext []byte) (secret []byte, err error) {
		err = b.withKey(ctx, &in.Key, u, func(s *session, private cryptoki.Object) (err error) {
			secret, err = b.profile.decapsulate(s, private, ciphertext)
			return err
		})
		return secret, err
	}
	err = blame(func() (err error) {
		answer.SharedSecret, err = decapsulate(in.Ciphertext)
		return err
	}, func() error {
		known, err := b.Encapsulate(ctx, &backends.EncapsulateRequest{Key: in.Key, Algorithm: in.Algorithm})
		if err == nil {
			_, err = decapsulate(known.Ciphertext)
		}
		return err
	}, invalidCiphertext())
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// encapsulating returns what a key is in the token.
func (b *Asymmetric) encapsulating(key *backends.Key, algorithm backends.Algorithm) (*purpose, error) {
	u, err := b.purposeFor(key, backends.EncapsulateDecapsulate)
	if err == nil && algorithm != "ML_KEM" {
		err = backends.Errorf(backends.InvalidRequest, "a key of spec %s does not encapsulate with %s", key.Spec, algorithm)
	}
	return u, err
}

func (p *profile) encapsulate(s *session, k *der.Kind, public cryptoki.Object) (secret, ciphertext []byte, err error) {
	out := make([]byte, k.Ciphertext)
	o, r := s.EncapsulateKey(s.handle, cryptoki.Mechanism{Type: cryptoki.CKMMLKEM}, public, p.sharedSecret(), out)
	if err := s.check("C_EncapsulateKey", r.RV); err != nil {
		return nil, nil, err
	}
	defer s.destroy(o)
	if r.N != len(out) {
		return nil, nil, backends.Errorf(backends.Internal, "C_EncapsulateKey wrote %d bytes, not %d", r.N, len(out))
	}
	secret, err = s.read(o, sharedSecret, sharedSecret)
	return secret, out, err
}

func (p *profile) decapsulate(s *session, private cryptoki.Object, ciphertext []byte) ([]byte, error) {
	o, rv := s.DecapsulateKey(s.handle, cryptoki.Mechanism{Type: cryptoki.CKMMLKEM}, private, ciphertext, p.sharedSecret())
	if err := s.check("C_DecapsulateKey", rv); err != nil {
		return nil, err
	}
	defer s.destroy(o)
	return s.read(o, sharedSecret, sharedSecret)
}

// sharedSecret is the template of a secret that is to be read.
func (p *profile) sharedSecret() cryptoki.Template {
	return p.sessionKey(p11.CKK_GENERIC_SECRET, sharedSecret, false)
}

// encapsulation makes a pair of each ML-KEM kind: what it encapsulates it must
// decapsulate, and something else from an altered ciphertext.
func (b *pairProber) encapsulation() error {
	for _, k := range der.MLKEMKinds {
		u, err := b.pairPurpose(kind{k.Spec, backends.EncapsulateDecapsulate})
		if err != nil {
			return err
		}
		var public, private cryptoki.Object
		rv := b.fit(u, func() (rv uint) {
			public, private, rv = b.generatePair(u)
			return rv
		})
		if rv != p11.CKR_OK {
			if err := fatal("C_GenerateKeyPair", rv); err != nil {
				return err
			}
			b.refused[k.Spec] = &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}
			continue
		}
		if rv := b.tryEncapsulation(k, public, private); rv != p11.CKR_OK {
			if err := fatal("C_EncapsulateKey", rv); err != nil {
				return err
			}
			b.refused[k.Spec] = &backends.Error{Code: backends.Unsupported, Message: "CKM_ML_KEM with C_EncapsulateKey and C_DecapsulateKey", RV: rv}
		}
	}
	return nil
}

func (b *pairProber) tryEncapsulation(k *der.Kind, public, private cryptoki.Object) (rv uint) {
	if _, err := b.parsedPublic(k, public); err != nil {
		return p11.CKR_FUNCTION_FAILED
	}
	secret, ciphertext, err := b.encapsulate(b.s, k, public)
	if err != nil {
		return cmp.Or(rvOf(err), p11.CKR_FUNCTION_FAILED)
	}
	again, err := b.decapsulate(b.s, private, ciphertext)
	if err != nil {
		return cmp.Or(rvOf(err), p11.CKR_FUNCTION_FAILED)
	}
	ciphertext[0] ^= 1
	other, err := b.decapsulate(b.s, private, ciphertext)
	if err != nil {
		return cmp.Or(rvOf(err), p11.CKR_FUNCTION_FAILED)
	}
	if !bytes.Equal(secret, again) || bytes.Equal(secret, other) {
		return p11.CKR_FUNCTION_FAILED
	}
	return p11.CKR_OK
}
