package der

import (
	"crypto/elliptic"
	encodingasn1 "encoding/asn1"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// Form says what the RFC 5649 ciphertext of a payload holds.
type Form uint16

const (
	// SecretKey: the data key itself.
	SecretKey Form = iota
	// DerivedKey: an AES-256 key from which the data key is derived with
	// CKM_AES_CBC_ENCRYPT_DATA. It is used for lengths that are not a
	// multiple of 8 where the token pads such keys when it unwraps them, as
	// SoftHSM2 does: the padded key would reach the recipient.
	DerivedKey
	// RSAKey, ECKey and EdwardsKey: a private key of that CKA_KEY_TYPE.
	RSAKey
	ECKey
	EdwardsKey
	// Ed25519Secret: the PKCS #8 form of an Ed25519 private key as a secret
	// key. It is used where the token does not wrap such private keys, as
	// SoftHSM2 does not, and only when the caller gets the plaintext anyway.
	Ed25519Secret
)

// KeyTypes is CKA_KEY_TYPE by form.
var KeyTypes = map[Form]uint{
	RSAKey:     p11.CKK_RSA,
	ECKey:      p11.CKK_EC,
	EdwardsKey: cryptoki.CKKECEdwards,
}

// Forms that are never those of a data key.
const (
	MLDSAKey Form = 0x100 + iota
	MLKEMKey
)

// KindOf returns the kind of a key pair of a CMK, nil if there is none.
func KindOf(spec backends.KeySpec) *Kind {
	if k := Kinds[spec]; k != nil {
		return k
	}
	if k := mlDSAKinds[spec]; k != nil {
		return k
	}
	return MLKEMKinds[spec]
}

// Kind is how key pairs of a spec are generated, and how their public key
// looks outside.
type Kind struct {
	Spec      backends.KeySpec
	Form      Form
	Mechanism uint // of C_GenerateKeyPair
	Name      string
	Bits      uint                          // of an RSA modulus
	curve     encodingasn1.ObjectIdentifier // of an elliptic curve (RFC 5480, SEC 2, RFC 8410)
	Point     int                           // bytes of a public point as CKA_EC_POINT holds it, without its DER header
	// Curve is what an ECKey is on, which recovers the public key from signatures.
	Curve *weierstrass
	// trial is the algorithm that a new key signs with to see that it does.
	trial backends.Algorithm
	// ParameterSet is CKA_PARAMETER_SET of an ML-DSA or ML-KEM key, whose curve is
	// its algorithm and whose point is its CKA_VALUE. signature and ciphertext
	// are the lengths of what such keys make.
	ParameterSet uint
	signature    int
	Ciphertext   int
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

// Kinds are the kinds of key pair of the AWS KMS API that PKCS#11 2.40 and
// 3.0 know.
var Kinds = map[backends.KeySpec]*Kind{
	backends.RSA2048:   {Spec: backends.RSA2048, Form: RSAKey, Mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, Name: "CKM_RSA_PKCS_KEY_PAIR_GEN", Bits: 2048, trial: "RSASSA_PKCS1_V1_5_SHA_256"},
	backends.RSA3072:   {Spec: backends.RSA3072, Form: RSAKey, Mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, Name: "CKM_RSA_PKCS_KEY_PAIR_GEN", Bits: 3072, trial: "RSASSA_PKCS1_V1_5_SHA_256"},
	backends.RSA4096:   {Spec: backends.RSA4096, Form: RSAKey, Mechanism: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, Name: "CKM_RSA_PKCS_KEY_PAIR_GEN", Bits: 4096, trial: "RSASSA_PKCS1_V1_5_SHA_256"},
	backends.P256:      {Spec: backends.P256, Form: ECKey, Mechanism: p11.CKM_EC_KEY_PAIR_GEN, Name: "CKM_EC_KEY_PAIR_GEN on P-256", curve: oidP256, Point: 65, Curve: nistCurve(elliptic.P256()), trial: "ECDSA_SHA_256"},
	backends.P384:      {Spec: backends.P384, Form: ECKey, Mechanism: p11.CKM_EC_KEY_PAIR_GEN, Name: "CKM_EC_KEY_PAIR_GEN on P-384", curve: oidP384, Point: 97, Curve: nistCurve(elliptic.P384()), trial: "ECDSA_SHA_384"},
	backends.P521:      {Spec: backends.P521, Form: ECKey, Mechanism: p11.CKM_EC_KEY_PAIR_GEN, Name: "CKM_EC_KEY_PAIR_GEN on P-521", curve: oidP521, Point: 133, Curve: nistCurve(elliptic.P521()), trial: "ECDSA_SHA_512"},
	backends.Secp256k1: {Spec: backends.Secp256k1, Form: ECKey, Mechanism: p11.CKM_EC_KEY_PAIR_GEN, Name: "CKM_EC_KEY_PAIR_GEN on secp256k1", curve: oidSecp256k1, Point: 65, Curve: secp256k1Curve(), trial: "ECDSA_SHA_256"},
	backends.Ed25519:   {Spec: backends.Ed25519, Form: EdwardsKey, Mechanism: cryptoki.CKMECEdwardsKeyPairGen, Name: "CKM_EC_EDWARDS_KEY_PAIR_GEN", curve: oidEd25519, Point: 32, trial: "ED25519_SHA_512"},
}

// CurveName is the name of the Edwards curve as CKA_EC_PARAMS may have it.
func (k *Kind) CurveName() []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte("edwards25519")) })
	return b.BytesOrPanic() // of constants
}

// KeyType is CKA_KEY_TYPE.
func (k *Kind) KeyType() uint {
	switch k.Form {
	case MLDSAKey:
		return cryptoki.CKKMLDSA
	case MLKEMKey:
		return cryptoki.CKKMLKEM
	default:
		return KeyTypes[k.Form]
	}
}

// Size is the length in bytes of an RSA modulus or of a field element.
func (k *Kind) Size() int {
	switch k.Form {
	case RSAKey:
		return int(k.Bits) / 8
	case ECKey:
		return k.Point / 2 // 04 | x | y
	default:
		return k.Point
	}
}

// algorithm is the contents of the AlgorithmIdentifier of a key that is a
// point: id-ecPublicKey and the curve, or only the curve (RFC 5480, RFC 8410).
func (k *Kind) algorithm() []byte {
	var b cryptobyte.Builder
	if k.Form == ECKey {
		b.AddASN1ObjectIdentifier(oidECPublicKey)
	}
	b.AddASN1ObjectIdentifier(k.curve)
	return b.BytesOrPanic() // of constants
}

// CurveOID is the curve's name as PKCS#11 has it in CKA_EC_PARAMS.
func (k *Kind) CurveOID() []byte { return oidDER(k.curve) }

func oidDER(oid encodingasn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic() // of constants
}
