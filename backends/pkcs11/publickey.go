package pkcs11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
)

// publicKey is the public key of a pair in the forms in which it is used.
type publicKey struct {
	der []byte // SubjectPublicKeyInfo
	// key is a *rsa.PublicKey, *ecdsa.PublicKey, *secp256k1.PublicKey,
	// ed25519.PublicKey or mlDSAPublic; nil for a kind that only the token uses.
	key any
}

// parsePublic parses a SubjectPublicKeyInfo of a key of the given spec, and of
// no other. A point must be on its curve.
func parsePublic(spec backends.KeySpec, der []byte) (*publicKey, error) {
	kind := pairKindOf(spec)
	if kind == nil {
		return nil, fmt.Errorf("no key pair of spec %s", spec)
	}
	k := &publicKey{der: der}
	var err error
	switch {
	case kind.form == mlDSAKey:
		k.key, err = parseMLDSA(kind, der)
	case kind.form == mlKEMKey:
		_, err = splitPublic(kind, der)
	case spec == backends.Secp256k1:
		k.key, err = parseSecp256k1(kind, der)
	default:
		k.key, err = parsePKIX(kind, der)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

func parsePKIX(kind *pairKind, der []byte) (any, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if kind.form == rsaKey && key.N.BitLen() == int(kind.bits) && key.E > 1 && key.E <= maxExponent && key.E%2 == 1 {
			return key, nil
		}
	case *ecdsa.PublicKey:
		if kind.form == ecKey && (key.Params().BitSize+7)/8 == kind.size() {
			return key, nil
		}
	case ed25519.PublicKey:
		if kind.form == edwardsKey {
			return key, nil
		}
	}
	return nil, errors.New("it is of another kind")
}

// parseSecp256k1 does by hand what crypto/x509 does not do for this curve.
func parseSecp256k1(kind *pairKind, der []byte) (*secp256k1.PublicKey, error) {
	point, err := splitPublic(kind, der)
	if err != nil {
		return nil, err
	}
	if point[0] != 4 { // the library also takes the hybrid forms 06 and 07
		return nil, errors.New("it is not an uncompressed point")
	}
	return secp256k1.ParsePubKey(point)
}

// splitPublic returns the key in a SubjectPublicKeyInfo (RFC 5280, section
// 4.1) whose algorithm is exactly that of kind.
func splitPublic(kind *pairKind, der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var info, algorithm cryptobyte.String
	var key []byte
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) || !info.ReadASN1BitStringAsBytes(&key) || !info.Empty() {
		return nil, errors.New("it is not a SubjectPublicKeyInfo")
	}
	if !bytes.Equal(algorithm, kind.algorithm()) {
		return nil, errors.New("it is of another algorithm or curve")
	}
	if len(key) != kind.point {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(key), kind.point)
	}
	return key, nil
}

// algorithm is the contents of the AlgorithmIdentifier of a key that is a
// point: id-ecPublicKey and the curve, or only the curve (RFC 5480, RFC 8410).
func (k *pairKind) algorithm() []byte {
	var b cryptobyte.Builder
	if k.form == ecKey {
		b.AddASN1ObjectIdentifier(oidECPublicKey)
	}
	b.AddASN1ObjectIdentifier(k.curve)
	return b.BytesOrPanic() // of constants
}

// curveOID is the curve's name as PKCS#11 has it in CKA_EC_PARAMS.
func (k *pairKind) curveOID() []byte { return oidDER(k.curve) }

func oidDER(oid encodingasn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic() // of constants
}
