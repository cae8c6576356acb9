package pkcs11

import (
	"bytes"
	"cmp"
	"context"
	encodingasn1 "encoding/asn1"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// PKCS#11 3.2, ML-KEM (section 6.68).
const (
	ckmMLKEMKeyPairGen = 0x0F
	ckmMLKEM           = 0x17

	ckaEncapsulate = 0x633
	ckaDecapsulate = 0x634

	ckpMLKEM512  = 1
	ckpMLKEM768  = 2
	ckpMLKEM1024 = 3
)

// sharedSecret is the length in bytes of what ML-KEM agrees on (FIPS 203).
const sharedSecret = 32

// mlKEMKinds are the kinds of ML-KEM key pair (FIPS 203; the object identifiers
// are in NIST's register (CSOR), the lengths in FIPS 203, table 3).
var mlKEMKinds = map[backends.KeySpec]*pairKind{
	backends.MLKEM512: {
		spec: backends.MLKEM512, form: mlKEMKey, mechanism: ckmMLKEMKeyPairGen, name: "CKM_ML_KEM_KEY_PAIR_GEN", parameterSet: ckpMLKEM512,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, point: 800, ciphertext: 768,
	},
	backends.MLKEM768: {
		spec: backends.MLKEM768, form: mlKEMKey, mechanism: ckmMLKEMKeyPairGen, name: "CKM_ML_KEM_KEY_PAIR_GEN", parameterSet: ckpMLKEM768,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, point: 1184, ciphertext: 1088,
	},
	backends.MLKEM1024: {
		spec: backends.MLKEM1024, form: mlKEMKey, mechanism: ckmMLKEMKeyPairGen, name: "CKM_ML_KEM_KEY_PAIR_GEN", parameterSet: ckpMLKEM1024,
		curve: encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, point: 1568, ciphertext: 1568,
	},
}

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
	if len(in.Ciphertext) != u.pair.ciphertext {
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

func (p *profile) encapsulate(s *session, k *pairKind, public cryptoki.Object) (secret, ciphertext []byte, err error) {
	out := make([]byte, k.ciphertext)
	o, r := s.EncapsulateKey(s.handle, cryptoki.Mechanism{Type: ckmMLKEM}, public, p.sharedSecret(), out)
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
	o, rv := s.DecapsulateKey(s.handle, cryptoki.Mechanism{Type: ckmMLKEM}, private, ciphertext, p.sharedSecret())
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
	for _, k := range mlKEMKinds {
		u, err := b.pairPurpose(kind{k.spec, backends.EncapsulateDecapsulate})
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
			b.refused[k.spec] = &backends.Error{Code: backends.Unsupported, Message: k.name, RV: rv}
			continue
		}
		if rv := b.tryEncapsulation(k, public, private); rv != p11.CKR_OK {
			if err := fatal("C_EncapsulateKey", rv); err != nil {
				return err
			}
			b.refused[k.spec] = &backends.Error{Code: backends.Unsupported, Message: "CKM_ML_KEM with C_EncapsulateKey and C_DecapsulateKey", RV: rv}
		}
	}
	return nil
}

func (b *pairProber) tryEncapsulation(k *pairKind, public, private cryptoki.Object) (rv uint) {
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
