package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/mldsa"
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
	if in.Type == backends.ExternalMu && a.scheme == mlDSAPure {
		return b.verifyMu(ctx, in, u)
	}
	input, err := a.input(in.Type, in.Message)
	if err != nil {
		return nil, err
	}
	public, err := b.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	return &backends.VerifyAnswer{Valid: a.verify(public.key, input, in.Signature)}, nil
}

// verify reports whether signature is one of input by key.
func (a *signing) verify(key any, input, signature []byte) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if a.scheme == rsaPSS {
			// AWS makes salts as long as the hash and accepts no others.
			return rsa.VerifyPSS(key, a.hash, input, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, a.hash, input, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, input, signature)
	case *secp256k1.PublicKey:
		return verifySecp256k1(key, input, signature)
	case ed25519.PublicKey:
		var options ed25519.Options
		if a.scheme == ed25519PH {
			options.Hash = crypto.SHA512
		}
		return ed25519.VerifyWithOptions(key, input, signature, &options) == nil
	case mlDSAPublic:
		return key.Verify(key.bytes, input, signature)
	}
	return false
}

func verifySecp256k1(key *secp256k1.PublicKey, digest, signature []byte) bool {
	rb, sb, ok := ecdsaFromDER(signature)
	var r, s secp256k1.ModNScalar
	if !ok || len(rb) > 32 || len(sb) > 32 || r.SetByteSlice(rb) || s.SetByteSlice(sb) {
		return false
	}
	return dcrecdsa.NewSignature(&r, &s).Verify(digest, key)
}

// verifyMu verifies a signature of an external mu (FIPS 204, section 6.2), which
// takes the public key alone: no token has a mechanism for it.
func (b *Asymmetric) verifyMu(ctx context.Context, in *backends.VerifyRequest, u *purpose) (*backends.VerifyAnswer, error) {
	if len(in.Message) != mldsa.MuSize {
		return nil, backends.Errorf(backends.InvalidRequest, "mu of %d bytes: it has %d", len(in.Message), mldsa.MuSize)
	}
	public, err := b.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	key := public.key.(mlDSAPublic)
	return &backends.VerifyAnswer{Valid: key.VerifyMu(key.bytes, in.Message, in.Signature)}, nil
}
