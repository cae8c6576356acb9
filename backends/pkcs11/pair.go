package pkcs11

import (
	"crypto/rsa"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// PKCS#11 3.0, Edwards curves.
const (
	ckkECEdwards           = 0x40
	ckmECEdwardsKeyPairGen = 0x1055
)

// pairKind is how key pairs of a spec are generated, and how their public key
// looks outside.
type pairKind struct {
	spec      backends.KeySpec
	form      form
	mechanism uint // of C_GenerateKeyPair
	name      string
	bits      uint                          // of an RSA modulus
	curve     encodingasn1.ObjectIdentifier // of an elliptic curve (RFC 5480, SEC 2, RFC 8410)
	point     int                           // bytes of a public point as CKA_EC_POINT holds it, without its DER header
	// parameterSet is CKA_PARAMETER_SET of an ML-DSA or ML-KEM key, whose curve is
	// its algorithm and whose point is its CKA_VALUE. signature and ciphertext
	// are the lengths of what such keys make.
	parameterSet uint
	signature    int
	ciphertext   int
}

var (
	oidP256      = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384      = encodingasn1.ObjectIdentifier{1, 3, 132, 0, 34}
	oidP521      = encodingasn1.ObjectIdentifier{1, 3, 132, 0, 35}
	oidSecp256k1 = encodingasn1.ObjectIdentifier{1, 3, 132, 0, 10}
	oidEd25519   = encodingasn1.ObjectIdentifier{1, 3, 101, 112}
	// oidECPublicKey is id-ecPublicKey (RFC 5480, section 2.1.1).
	oidECPublicKey = encodingasn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// pairKinds are the kinds of key pair of the AWS KMS API that PKCS#11 2.40 and
// 3.0 know.
var pairKinds = map[backends.KeySpec]*pairKind{
	backends.RSA2048:   {spec: backends.RSA2048, form: rsaKey, mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, name: "CKM_RSA_PKCS_KEY_PAIR_GEN", bits: 2048},
	backends.RSA3072:   {spec: backends.RSA3072, form: rsaKey, mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, name: "CKM_RSA_PKCS_KEY_PAIR_GEN", bits: 3072},
	backends.RSA4096:   {spec: backends.RSA4096, form: rsaKey, mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, name: "CKM_RSA_PKCS_KEY_PAIR_GEN", bits: 4096},
	backends.P256:      {spec: backends.P256, form: ecKey, mechanism: p11.CKM_EC_KEY_PAIR_GEN, name: "CKM_EC_KEY_PAIR_GEN on P-256", curve: oidP256, point: 65},
	backends.P384:      {spec: backends.P384, form: ecKey, mechanism: p11.CKM_EC_KEY_PAIR_GEN, name: "CKM_EC_KEY_PAIR_GEN on P-384", curve: oidP384, point: 97},
	backends.P521:      {spec: backends.P521, form: ecKey, mechanism: p11.CKM_EC_KEY_PAIR_GEN, name: "CKM_EC_KEY_PAIR_GEN on P-521", curve: oidP521, point: 133},
	backends.Secp256k1: {spec: backends.Secp256k1, form: ecKey, mechanism: p11.CKM_EC_KEY_PAIR_GEN, name: "CKM_EC_KEY_PAIR_GEN on secp256k1", curve: oidSecp256k1, point: 65},
	backends.Ed25519:   {spec: backends.Ed25519, form: edwardsKey, mechanism: ckmECEdwardsKeyPairGen, name: "CKM_EC_EDWARDS_KEY_PAIR_GEN", curve: oidEd25519, point: 32},
}

// generation appends the attributes that say which key to generate.
func (p *profile) generation(k *pairKind, t cryptoki.Template) cryptoki.Template {
	switch k.form {
	case rsaKey:
		return t.ULong(p11.CKA_MODULUS_BITS, k.bits).
			Bytes(p11.CKA_PUBLIC_EXPONENT, big.NewInt(65537).Bytes())
	case mlDSAKey, mlKEMKey:
		return t.ULong(ckaParameterSet, k.parameterSet)
	default:
		return t.Bytes(p11.CKA_EC_PARAMS, p.params(k))
	}
}

// params is CKA_EC_PARAMS. For Edwards curves that is the name as a PrintableString or
// the OID: PKCS#11 3.0 (section 2.3.5) has both, and there are modules that take one alone.
func (p *profile) params(k *pairKind) []byte {
	if k.form == edwardsKey && !p.edwardsOID {
		return k.curveName()
	}
	return k.curveOID()
}

// curveName is the name of the Edwards curve as CKA_EC_PARAMS may have it.
func (k *pairKind) curveName() []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte("edwards25519")) })
	return b.BytesOrPanic() // of constants
}

// sessionPublic is the template of a data key pair's public key, which does
// nothing in the token.
func (p *profile) sessionPublic(k *pairKind) cryptoki.Template {
	t := cryptoki.Template(nil).
		ULong(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY).
		ULong(p11.CKA_KEY_TYPE, pairKeyTypes[k.form]).
		Bool(p11.CKA_TOKEN, false)
	return p.generation(k, t)
}

// refused names the mechanism in the error of a pair that the token cannot
// generate.
func (k *pairKind) refused(err error) error {
	switch rvOf(err) {
	case p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_TEMPLATE_INCONSISTENT:
	default:
		if backends.CodeOf(err) != backends.Unsupported {
			return err
		}
	}
	return &backends.Error{Code: backends.Unsupported, Message: k.name, RV: rvOf(err)}
}

// publicKey reads a public key object and returns its DER
// SubjectPublicKeyInfo (RFC 5280, section 4.1).
func (k *pairKind) publicKey(s *session, o cryptoki.Object) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, 512)
	q.Ask(p11.CKA_PUBLIC_EXPONENT, 16)
	q.Ask(p11.CKA_EC_POINT, 160)
	q.Ask(p11.CKA_VALUE, 4096)
	if err := s.attributes(o, &q); err != nil {
		return nil, err
	}
	if k.form == rsaKey {
		return rsaPublicKey(&q, int(k.bits))
	}
	if k.form == mlDSAKey || k.form == mlKEMKey {
		value, ok := q.Value(p11.CKA_VALUE)
		if !ok || len(value) != k.point {
			return nil, backends.Errorf(backends.Internal, "CKA_VALUE of a public key has %d bytes, not %d", len(value), k.point)
		}
		return k.pointKey(value)
	}
	point, ok := q.Value(p11.CKA_EC_POINT)
	if !ok {
		return nil, backends.Errorf(backends.Internal, "a public key has no CKA_EC_POINT")
	}
	return k.ecPublicKey(point)
}

func rsaPublicKey(q *cryptoki.Query, bits int) ([]byte, error) {
	n, ok := q.Value(p11.CKA_MODULUS)
	e, ok2 := q.Value(p11.CKA_PUBLIC_EXPONENT)
	if !ok || !ok2 || len(e) > 4 {
		return nil, backends.Errorf(backends.Internal, "an RSA public key has no modulus or no exponent of 32 bits")
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if public.N.BitLen() != bits {
		return nil, backends.Errorf(backends.Internal, "an RSA public key has %d bits, not %d", public.N.BitLen(), bits)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encoding an RSA public key: %v", err)
	}
	return der, nil
}

// ecPublicKey encodes a point. CKA_EC_POINT is a DER OCTET STRING, but some
// modules give its contents only.
func (k *pairKind) ecPublicKey(value []byte) ([]byte, error) {
	point := cryptobyte.String(value)
	if in := cryptobyte.String(value); len(value) != k.point {
		if !in.ReadASN1(&point, asn1.OCTET_STRING) || !in.Empty() || len(point) != k.point {
			return nil, backends.Errorf(backends.Internal, "CKA_EC_POINT of %d bytes does not hold a point of %d bytes", len(value), k.point)
		}
	}
	if k.form == ecKey && point[0] != 4 {
		return nil, backends.Errorf(backends.Internal, "CKA_EC_POINT is not an uncompressed point")
	}
	return k.pointKey(point)
}

// pointKey is the SubjectPublicKeyInfo of a key that is a string of bytes.
func (k *pairKind) pointKey(point []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(k.algorithm()) })
		b.AddASN1BitString(point)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encoding a public key: %v", err)
	}
	return der, nil
}
