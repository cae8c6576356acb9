package der

import (
	"bytes"
	"crypto/ed25519"
	encodingasn1 "encoding/asn1"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// PrivateKey is a private key that passes through this process, taken apart.
// Its fields point into the PKCS #8 form, so that clearing that clears them.
type PrivateKey struct {
	Kind *Kind
	// RSA are modulus, public exponent, private exponent, both primes, both
	// exponents and the coefficient, in this order.
	RSA [8][]byte
	// Value is the private number of an EC key, the seed of an Ed25519 key.
	Value []byte
}

var errPKCS8 = errors.New("not a PKCS #8 private key of the key's kind")

// oidRSAEncryption is rsaEncryption (RFC 8017, appendix A.1).
var oidRSAEncryption = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}

// ParsePKCS8 parses a DER PrivateKeyInfo (RFC 5208, section 5; RFC 5958 for
// version 1) of the kind. Whether its numbers make a key is for the token, and
// for a trial of the key, to say.
func ParsePKCS8(kind *Kind, der []byte) (*PrivateKey, error) {
	in := cryptobyte.String(der)
	var info, algorithm, private cryptobyte.String
	var version uint
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1Integer(&version) || version > 1 ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!info.ReadASN1(&private, asn1.OCTET_STRING) {
		return nil, errPKCS8
	}
	// Attributes, and the public key of version 1.
	if !info.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) ||
		!info.SkipOptionalASN1(asn1.Tag(1).ContextSpecific()) || !info.Empty() {
		return nil, errPKCS8
	}
	k := &PrivateKey{Kind: kind}
	ok := false
	switch kind.Form {
	case RSAKey:
		ok = rsaAlgorithm(algorithm) && k.parseRSA(private)
	case ECKey:
		ok = bytes.Equal(algorithm, kind.algorithm()) && k.parseEC(private)
	case EdwardsKey:
		ok = bytes.Equal(algorithm, kind.algorithm()) && k.parseEdwards(private)
	default: // is not imported
	}
	if !ok {
		return nil, errPKCS8
	}
	return k, nil
}

func rsaAlgorithm(algorithm cryptobyte.String) bool {
	var null cryptobyte.String
	return algorithm.ReadASN1Element(&null, asn1.OBJECT_IDENTIFIER) && bytes.Equal(null, oidDER(oidRSAEncryption)) &&
		algorithm.ReadASN1(&null, asn1.NULL) && null.Empty() && algorithm.Empty()
}

// parseRSA reads an RSAPrivateKey of two primes (RFC 8017, appendix A.1.2).
func (k *PrivateKey) parseRSA(der cryptobyte.String) bool {
	var sequence cryptobyte.String
	var version uint
	if !der.ReadASN1(&sequence, asn1.SEQUENCE) || !der.Empty() ||
		!sequence.ReadASN1Integer(&version) || version != 0 {
		return false
	}
	for i := range k.RSA {
		if !sequence.ReadASN1Integer(&k.RSA[i]) || len(k.RSA[i]) == 0 {
			return false
		}
	}
	return sequence.Empty()
}

// parseEC reads an ECPrivateKey (RFC 5915, section 3). Its curve, if it has
// one, must be the same again; its public key is not believed.
func (k *PrivateKey) parseEC(der cryptobyte.String) bool {
	var sequence, value, curve cryptobyte.String
	var version uint
	var hasCurve bool
	if !der.ReadASN1(&sequence, asn1.SEQUENCE) || !der.Empty() ||
		!sequence.ReadASN1Integer(&version) || version != 1 ||
		!sequence.ReadASN1(&value, asn1.OCTET_STRING) || len(value) == 0 || len(value) > k.Kind.Size() ||
		!sequence.ReadOptionalASN1(&curve, &hasCurve, asn1.Tag(0).ContextSpecific().Constructed()) ||
		!sequence.SkipOptionalASN1(asn1.Tag(1).ContextSpecific().Constructed()) || !sequence.Empty() {
		return false
	}
	k.Value = value
	return !hasCurve || bytes.Equal(curve, k.Kind.CurveOID())
}

// parseEdwards reads a CurvePrivateKey (RFC 8410, section 7).
func (k *PrivateKey) parseEdwards(der cryptobyte.String) bool {
	var seed cryptobyte.String
	if !der.ReadASN1(&seed, asn1.OCTET_STRING) || !der.Empty() || len(seed) != ed25519.SeedSize {
		return false
	}
	k.Value = seed
	return true
}

// WellFormed returns a copy of an Ed25519 PrivateKeyInfo. One that has the seed where
// RFC 8410, section 7, wants the OCTET STRING of it, as kryoptic makes them, becomes one
// as it should be.
func WellFormed(pkcs8 []byte) []byte {
	in := cryptobyte.String(pkcs8)
	var info, algorithm, seed cryptobyte.String
	var version uint
	if in.ReadASN1(&info, asn1.SEQUENCE) && in.Empty() && info.ReadASN1Integer(&version) &&
		info.ReadASN1(&algorithm, asn1.SEQUENCE) && info.ReadASN1(&seed, asn1.OCTET_STRING) && len(seed) == ed25519.SeedSize {
		return slices.Concat(Ed25519PKCS8, seed)
	}
	return bytes.Clone(pkcs8)
}

// EdwardsPublic is the SubjectPublicKeyInfo of an Ed25519 key.
func (k *PrivateKey) EdwardsPublic() ([]byte, error) {
	private := ed25519.NewKeyFromSeed(k.Value)
	defer clear(private)
	return k.Kind.PointKey(private[ed25519.SeedSize:])
}

// Ed25519PKCS8 is the PKCS #8 form of an Ed25519 private key without its 32
// bytes (RFC 8410, section 7 and appendix A).
var Ed25519PKCS8 = []byte{
	0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
}
