package pkcs11

import (
	"context"
	"crypto/ecdsa"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// DeriveSharedSecret implements [backends.Agreer]: the x coordinate of the
// shared point (NIST SP 800-56A, section 5.7.1.2), as long as a field element,
// as AWS KMS has it.
func (b *Asymmetric) DeriveSharedSecret(ctx context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	u, err := b.purposeFor(&in.Key, backends.KeyAgreement)
	if err != nil {
		return nil, err
	}
	peer, err := parsePeer(in.Key.Spec, in.PublicKey)
	if err != nil {
		return nil, err
	}
	if b.signs.Peer == nil {
		return nil, token.Unsupported("CKM_ECDH1_DERIVE")
	}
	r, err := b.recipient(in.Recipient)
	if err != nil {
		return nil, err
	}
	defer b.done(r)
	answer := &backends.DeriveSharedSecretAnswer{}
	derive := func(peer []byte, r *recipient) error {
		return b.WithKey(ctx, &in.Key, u, func(s *token.Session, h cryptoki.Object) error {
			length := u.Pair.Size()
			secret, rv := s.DeriveECDH(s.Handle, h, p11.CKD_NULL, b.signs.Peer(peer),
				b.Profile.SessionKey(p11.CKK_GENERIC_SECRET, uint(length), r.wraps()))
			if err := s.Check("C_DeriveKey", rv); err != nil {
				return err
			}
			defer s.Destroy(secret)
			var err error
			answer.ForRecipient, answer.SharedSecret, err = b.deliver(s, &dataKey{key: secret, length: length}, r, r == nil)
			return err
		})
	}
	err = token.Blame(func() error { return derive(peer, r) }, func() error {
		own, err := b.publicKey(ctx, &in.Key, u)
		if err != nil {
			return err
		}
		point, err := parsePeer(in.Key.Spec, own.DER)
		if err != nil {
			return err
		}
		err = derive(point, nil)
		clear(answer.SharedSecret) // nobody's business
		answer.SharedSecret = nil
		return err
	}, backends.Errorf(backends.InvalidRequest, "the token derives nothing from the peer's public key"))
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// parsePeer returns the point of a peer's public key, which must be on the
// curve of the key that it is used with: a point elsewhere would give the
// private key away bit by bit.
func parsePeer(spec backends.KeySpec, encoded []byte) ([]byte, error) {
	invalid := backends.Errorf(backends.InvalidRequest, "the peer's public key is not a SubjectPublicKeyInfo of a point on the curve of the key")
	public, err := der.ParsePublic(spec, encoded)
	if err != nil {
		return nil, invalid
	}
	key, ok := public.Key.(*ecdsa.PublicKey)
	if !ok {
		return nil, invalid
	}
	point, err := key.ECDH() // checks that it is on the curve
	if err != nil {
		return nil, invalid
	}
	return point.Bytes(), nil
}
