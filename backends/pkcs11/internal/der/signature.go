package der

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	dcrecdsa "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// Verify reports whether signature is one of input by key.
func (a *Signing) Verify(key any, input, signature []byte) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if a.Scheme == RSAPSS {
			// AWS makes salts as long as the hash and accepts no others.
			return rsa.VerifyPSS(key, a.Hash, input, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, a.Hash, input, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, input, signature)
	case *secp256k1.PublicKey:
		return verifySecp256k1(key, input, signature)
	case ed25519.PublicKey:
		var options ed25519.Options
		if a.Scheme == ed25519PH {
			options.Hash = crypto.SHA512
		}
		return ed25519.VerifyWithOptions(key, input, signature, &options) == nil
	case MLDSAPublic:
		return key.Verify(key.Bytes, input, signature)
	}
	return false
}

func verifySecp256k1(key *secp256k1.PublicKey, digest, signature []byte) bool {
	rb, sb, ok := ParseECDSA(signature)
	var r, s secp256k1.ModNScalar
	if !ok || len(rb) > 32 || len(sb) > 32 || r.SetByteSlice(rb) || s.SetByteSlice(sb) {
		return false
	}
	return dcrecdsa.NewSignature(&r, &s).Verify(digest, key)
}
