package token

import (
	"math/big"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// RecoverPublic returns the SubjectPublicKeyInfo of an EC private key that may
// sign. The digests are those of no message that anybody knows.
func (s *Session) RecoverPublic(k *der.Kind, private cryptoki.Object) ([]byte, error) {
	hash := k.TrialSigning().Hash
	digests := make([]byte, 2*hash.Size())
	if err := s.Check("C_GenerateRandom", s.GenerateRandom(s.Handle, digests)); err != nil {
		return nil, err
	}
	a := &der.Signing{Scheme: der.ECDSADER, Hash: hash}
	first, second := digests[:hash.Size()], digests[hash.Size():]
	signature, err := s.Signature(a, private, k, first)
	if err != nil {
		return nil, err
	}
	r, v, ok := der.ParseECDSA(signature)
	if !ok {
		return nil, backends.Errorf(backends.Internal, "C_Sign gave no ECDSA signature")
	}
	if signature, err = s.Signature(a, private, k, second); err != nil {
		return nil, err
	}
	for _, q := range k.Curve.Candidates(first, new(big.Int).SetBytes(r), new(big.Int).SetBytes(v)) {
		encoded, err := k.PointKey(k.EncodePoint(q))
		if err != nil {
			return nil, err
		}
		if public, err := der.ParsePublic(k.Spec, encoded); err == nil && a.Verify(public.Key, second, signature) {
			return encoded, nil
		}
	}
	return nil, backends.Errorf(backends.UnfitMaterial, "the private key makes signatures that fit no public key")
}
