package pkcs11

import (
	"context"
	"crypto/subtle"
	"fmt"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// HMAC is the backend of HMAC keys. It implements [backends.Backend] and
// [backends.MACer].
type HMAC struct{ *secrets }

// macAlgorithms are AWS's names; each key spec has one.
var macAlgorithms = map[backends.Algorithm]backends.KeySpec{
	"HMAC_SHA_224": backends.HMAC224,
	"HMAC_SHA_256": backends.HMAC256,
	"HMAC_SHA_384": backends.HMAC384,
	"HMAC_SHA_512": backends.HMAC512,
}

// NewHMAC returns the backend of HMAC keys in t. Closing it closes t.
func NewHMAC(t *Token) *HMAC {
	return &HMAC{newSecrets(
		t,
		token.Kind{Spec: backends.HMAC224, Usage: backends.GenerateVerifyMAC},
		token.Kind{Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC},
		token.Kind{Spec: backends.HMAC384, Usage: backends.GenerateVerifyMAC},
		token.Kind{Spec: backends.HMAC512, Usage: backends.GenerateVerifyMAC},
	)}
}

// GenerateMAC implements [backends.MACer].
func (b *HMAC) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	mac, err := b.mac(ctx, &in.Key, in.Algorithm, in.Message)
	if err != nil {
		return nil, err
	}
	return &backends.MACAnswer{MAC: mac}, nil
}

// VerifyMAC implements [backends.MACer]. It computes the HMAC in the token
// and compares here in constant time: how C_Verify compares is not known.
func (b *HMAC) VerifyMAC(ctx context.Context, in *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	mac, err := b.mac(ctx, &in.Key, in.Algorithm, in.Message)
	if err != nil {
		return nil, err
	}
	return &backends.VerifyAnswer{Valid: subtle.ConstantTimeCompare(mac, in.MAC) == 1}, nil
}

func (b *HMAC) mac(ctx context.Context, key *backends.Key, algorithm backends.Algorithm, message []byte) ([]byte, error) {
	u, err := b.purpose(key)
	if err != nil {
		return nil, err
	}
	if macAlgorithms[algorithm] != key.Spec {
		return nil, backends.Errorf(backends.InvalidRequest, "a key of spec %s does not compute %s", key.Spec, algorithm)
	}
	mac := make([]byte, token.HMACs[key.Spec].Hash.Size())
	sign := func(message []byte) error {
		return b.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) error {
			r := s.Sign(s.Handle, h, cryptoki.Mechanism{Type: token.HMACs[key.Spec].Mechanism}, message, mac)
			if err := s.Check("C_Sign", r.RV); err != nil {
				return err
			}
			if r.N != len(mac) {
				s.Broken = true
				return backends.Errorf(backends.Internal, "C_Sign wrote %d bytes, not %d", r.N, len(mac))
			}
			return nil
		})
	}
	err = token.Limited(token.Usual(len(message)), func() error { return sign(message) }, func() error { return sign(make([]byte, token.Little)) },
		func() string { return fmt.Sprintf("compute the HMAC of %d bytes", len(message)) })
	if err != nil {
		return nil, err
	}
	return mac, nil
}
