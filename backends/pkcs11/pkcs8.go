package pkcs11

import (
	"bytes"
	"crypto/ed25519"
	encodingasn1 "encoding/asn1"
	"errors"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends/pkcs11/internal/cryptoki"
)

// privateKey is a private key that passes through this process, taken apart.
// Its fields point into the PKCS #8 form, so that clearing that clears them.
type privateKey struct {
	kind *pairKind
	// rsa are modulus, public exponent, private exponent, both primes, both
	// exponents and the coefficient, in this order.
	rsa [8][]byte
	// value is the private number of an EC key, the seed of an Ed25519 key.
	value []byte
}

var errPKCS8 = errors.New("not a PKCS #8 private key of the key's kind")

// oidRSAEncryption is rsaEncryption (RFC 8017, appendix A.1).
var oidRSAEncryption = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}

// parsePKCS8 parses a DER PrivateKeyInfo (RFC 5208, section 5; RFC 5958 for
// version 1) of the kind. Whether its numbers make a key is for the token, and
// for a trial of the key, to say.
func parsePKCS8(kind *pairKind, der []byte) (*privateKey, error) {
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
	k := &privateKey{kind: kind}
	ok := false
	switch kind.form {
	case rsaKey:
		ok = rsaAlgorithm(algorithm) && k.parseRSA(private)
	case ecKey:
		ok = bytes.Equal(algorithm, kind.algorithm()) && k.parseEC(private)
	case edwardsKey:
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
func (k *privateKey) parseRSA(der cryptobyte.String) bool {
	var sequence cryptobyte.String
	var version uint
	if !der.ReadASN1(&sequence, asn1.SEQUENCE) || !der.Empty() ||
		!sequence.ReadASN1Integer(&version) || version != 0 {
		return false
	}
	for i := range k.rsa {
		if !sequence.ReadASN1Integer(&k.rsa[i]) || len(k.rsa[i]) == 0 {
			return false
		}
	}
	return sequence.Empty()
}

// parseEC reads an ECPrivateKey (RFC 5915, section 3). Its curve, if it has
// one, must be the same again; its public key is not believed.
func (k *privateKey) parseEC(der cryptobyte.String) bool {
	var sequence, value, curve cryptobyte.String
	var version uint
	var hasCurve bool
	if !der.ReadASN1(&sequence, asn1.SEQUENCE) || !der.Empty() ||
		!sequence.ReadASN1Integer(&version) || version != 1 ||
		!sequence.ReadASN1(&value, asn1.OCTET_STRING) || len(value) == 0 || len(value) > k.kind.size() ||
		!sequence.ReadOptionalASN1(&curve, &hasCurve, asn1.Tag(0).ContextSpecific().Constructed()) ||
		!sequence.SkipOptionalASN1(asn1.Tag(1).ContextSpecific().Constructed()) || !sequence.Empty() {
		return false
	}
	k.value = value
	return !hasCurve || bytes.Equal(curve, k.kind.curveOID())
}

// parseEdwards reads a CurvePrivateKey (RFC 8410, section 7).
func (k *privateKey) parseEdwards(der cryptobyte.String) bool {
	var seed cryptobyte.String
	if !der.ReadASN1(&seed, asn1.OCTET_STRING) || !der.Empty() || len(seed) != ed25519.SeedSize {
		return false
	}
	k.value = seed
	return true
}

// components appends the value of the key to a template.
func (k *privateKey) components(p *profile, t cryptoki.Template) cryptoki.Template {
	if k.kind.form != rsaKey {
		return t.Bytes(p11.CKA_EC_PARAMS, p.params(k.kind)).Bytes(p11.CKA_VALUE, k.value)
	}
	n := 0
	for _, v := range k.rsa {
		n += len(v)
	}
	t = t.Reserve(len(k.rsa), n)
	for i, a := range []uint{
		p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT, p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2,
		p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
	} {
		t = t.Bytes(a, k.rsa[i])
	}
	return t
}

// wellFormed returns a copy of an Ed25519 PrivateKeyInfo. One that has the seed where
// RFC 8410, section 7, wants the OCTET STRING of it, as kryoptic makes them, becomes one
// as it should be.
func wellFormed(pkcs8 []byte) []byte {
	in := cryptobyte.String(pkcs8)
	var info, algorithm, seed cryptobyte.String
	var version uint
	if in.ReadASN1(&info, asn1.SEQUENCE) && in.Empty() && info.ReadASN1Integer(&version) &&
		info.ReadASN1(&algorithm, asn1.SEQUENCE) && info.ReadASN1(&seed, asn1.OCTET_STRING) && len(seed) == ed25519.SeedSize {
		return slices.Concat(ed25519PKCS8, seed)
	}
	return bytes.Clone(pkcs8)
}

// edwardsPublic is the SubjectPublicKeyInfo of an Ed25519 key.
func (k *privateKey) edwardsPublic() ([]byte, error) {
	private := ed25519.NewKeyFromSeed(k.value)
	defer clear(private)
	return k.kind.pointKey(private[ed25519.SeedSize:])
}
