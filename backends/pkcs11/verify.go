package pkcs11

import (
	"context"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/mldsa"
	"cmkd/backends/pkcs11/internal/token"
)

// Verify implements [backends.Signer]. It verifies with the public key in this
// process, which takes a fraction of the time of a call to the token and is
// strict in the same way for every token. Tokens answer an altered signature with
// errors of every kind, CKR_DEVICE_ERROR among them.
func (b *Asymmetric) Verify(ctx context.Context, in *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	u, a, err := b.signing(&in.Key, in.Algorithm)
	if err != nil {
		return nil, err
	}
	if in.Type == backends.ExternalMu && a.Scheme == der.MLDSAPure {
		return b.verifyMu(ctx, in, u)
	}
	input, err := a.Input(in.Type, in.Message)
	if err != nil {
		return nil, err
	}
	public, err := b.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	return &backends.VerifyAnswer{Valid: a.Verify(public.Key, input, in.Signature)}, nil
}

// verifyMu verifies a signature of an external mu (FIPS 204, section 6.2), which
// takes the public key alone: no token has a mechanism for it.
func (b *Asymmetric) verifyMu(ctx context.Context, in *backends.VerifyRequest, u *token.Purpose) (*backends.VerifyAnswer, error) {
	if len(in.Message) != mldsa.MuSize {
		return nil, backends.Errorf(backends.InvalidRequest, "mu of %d bytes: it has %d", len(in.Message), mldsa.MuSize)
	}
	public, err := b.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	key := public.Key.(der.MLDSAPublic)
	return &backends.VerifyAnswer{Valid: key.VerifyMu(key.Bytes, in.Message, in.Signature)}, nil
}
