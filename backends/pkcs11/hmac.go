package pkcs11

import (
	"context"
	"crypto/subtle"
	"fmt"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
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
		kind{backends.HMAC224, backends.GenerateVerifyMAC},
		kind{backends.HMAC256, backends.GenerateVerifyMAC},
		kind{backends.HMAC384, backends.GenerateVerifyMAC},
		kind{backends.HMAC512, backends.GenerateVerifyMAC},
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
	mac := make([]byte, hmacs[key.Spec].hash.Size())
	sign := func(message []byte) error {
		return b.withKey(ctx, key, u, func(s *session, h cryptoki.Object) error {
			r := s.Sign(s.handle, h, cryptoki.Mechanism{Type: hmacs[key.Spec].mechanism}, message, mac)
			if err := s.check("C_Sign", r.RV); err != nil {
				return err
			}
			if r.N != len(mac) {
				s.broken = true
				return backends.Errorf(backends.Internal, "C_Sign wrote %d bytes, not %d", r.N, len(mac))
			}
			return nil
		})
	}
	err = limited(len(message) <= little, func() error { return sign(message) }, func() error { return sign([]byte("canary")) },
		func() string { return fmt.Sprintf("compute the HMAC of %d bytes", len(message)) })
	if err != nil {
		return nil, err
	}
	return mac, nil
}
