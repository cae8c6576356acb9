package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/mldsa"
)

// Verify implements [backends.Signer]. It verifies with the public key in this
// process, which takes a fraction of the time of a call to the token and is
// strict in the same way for every token; the token verifies only what the
// standard library does not.
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
	if public.key != nil {
		return &backends.VerifyAnswer{Valid: a.verify(public.key, input, in.Signature)}, nil
	}
	return b.verifyInToken(ctx, in, u, a, input)
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
	key, err := splitPublic(u.pair, public.der)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "the public key of %s: %v", in.Key.ID, err)
	}
	return &backends.VerifyAnswer{Valid: mlDSAParameters[u.pair.spec].VerifyMu(key, in.Message, in.Signature)}, nil
}

// verifyInToken verifies with the public key object.
func (b *Asymmetric) verifyInToken(ctx context.Context, in *backends.VerifyRequest, u *purpose, a *signing, input []byte) (*backends.VerifyAnswer, error) {
	if len(in.Signature) != a.length(u.pair) {
		return &backends.VerifyAnswer{}, nil
	}
	r := ref{in.Key.ID, p11.CKO_PUBLIC_KEY}
	valid := false
	verify := func(input, signature []byte) error {
		return b.withObject(ctx, r, func(s *session, h cryptoki.Object) error {
			result := s.Verify(s.handle, h, a.ckm(), input, signature)
			switch {
			case !result.Init && (result.RV == p11.CKR_SIGNATURE_INVALID || result.RV == p11.CKR_SIGNATURE_LEN_RANGE):
				valid = false
				return nil // ends the operation as success does
			default:
				valid = result.RV == p11.CKR_OK
				return s.checkInput("C_Verify", result)
			}
		})
	}
	err := blame(func() error { return verify(input, in.Signature) }, func() error {
		return b.verifies(ctx, in, u, a, verify)
	}, errNoSignature)
	if err != nil && err != errNoSignature { //nolint:errorlint // a value of this package
		return nil, err
	}
	return &backends.VerifyAnswer{Valid: valid && err == nil}, nil
}

// errNoSignature says that the token verifies other signatures, and fails with
// this one.
var errNoSignature error = backends.Errorf(backends.InvalidRequest, "the signature is not one")

// verifies returns nil if the token verifies a signature that it has made.
func (b *Asymmetric) verifies(ctx context.Context, in *backends.VerifyRequest, u *purpose, a *signing, verify func(input, signature []byte) error) error {
	input, err := a.input(backends.Raw, checkLabel)
	if err != nil {
		return err
	}
	var signature []byte
	err = b.withKey(ctx, &in.Key, u, func(s *session, h cryptoki.Object) (err error) {
		signature, err = a.sign(s, h, u.pair, input)
		return err
	})
	if err != nil {
		return err
	}
	return verify(input, signature)
}
