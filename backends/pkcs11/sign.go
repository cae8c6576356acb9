package pkcs11

import (
	"context"
	"fmt"
	"slices"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// Sign implements [backends.Signer].
func (b *Asymmetric) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	u, a, err := b.signing(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	input, err := a.Input(in.Type, in.Message)
	if err != nil {
		return nil, err
	}
	if !b.signs.can[specAlgorithm{in.Key.Spec, in.Algorithm}] {
		return nil, unsupported(a.Mechanism)
	}
	var signature []byte
	sign := func(input []byte) error {
		return b.withKey(ctx, &in.Key, u, func(s *session, h cryptoki.Object) error {
			signature, err = s.sign(a, h, u.pair, input)
			return err
		})
	}
	err = limited(len(input), func() error { return sign(input) }, func() error { return sign(make([]byte, little)) },
		fmt.Sprintf("sign %d bytes", len(input)))
	if err != nil {
		return nil, err
	}
	return &backends.SignAnswer{Signature: signature}, nil
}

// signing returns what a key is in the token and how it signs.
func (b *Asymmetric) signing(key *backends.Key, algorithm backends.Algorithm) (*purpose, *der.Signing, error) {
	u, err := b.purposeFor(key, backends.SignVerify)
	if err != nil {
		return nil, nil, err
	}
	a := der.Signings[algorithm]
	if a == nil || !slices.Contains(a.Specs, key.Spec) {
		return nil, nil, backends.Errorf(backends.InvalidRequest, "a key of spec %s does not sign with %s", key.Spec, algorithm)
	}
	return u, a, nil
}

// sign signs what input returned, and encodes the signature.
func (s *session) sign(a *der.Signing, key cryptoki.Object, k *der.Kind, input []byte) ([]byte, error) {
	out := make([]byte, a.Length(k))
	r := s.Sign(s.handle, key, a.CKM(), a.TokenInput(input), out)
	if err := s.check("C_Sign", r.RV); err != nil {
		return nil, err
	}
	if r.N != len(out) {
		s.broken = true
		return nil, backends.Errorf(backends.Internal, "C_Sign wrote %d bytes, not %d", r.N, len(out))
	}
	if a.Scheme == der.ECDSADER {
		return der.MarshalECDSA(out)
	}
	return out, nil
}
