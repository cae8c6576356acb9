package der

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
)

// PublicKey is the public key of a pair in the forms in which it is used.
type PublicKey struct {
	DER []byte // SubjectPublicKeyInfo
	// Key is a *rsa.PublicKey, *ecdsa.PublicKey, *secp256k1.PublicKey,
	// ed25519.PublicKey or mlDSAPublic; nil for a kind that only the token uses.
	Key any
}

// ParsePublic parses a SubjectPublicKeyInfo of a key of the given spec, and of
// no other. A point must be on its curve.
func ParsePublic(spec backends.KeySpec, der []byte) (*PublicKey, error) {
	kind := KindOf(spec)
	if kind == nil {
		return nil, fmt.Errorf("no key pair of spec %s", spec)
	}
	k := &PublicKey{DER: der}
	var err error
	switch {
	case kind.Form == MLDSAKey:
		k.Key, err = parseMLDSA(kind, der)
	case kind.Form == MLKEMKey:
		_, err = SplitPublic(kind, der)
	case spec == backends.Secp256k1:
		k.Key, err = parseSecp256k1(kind, der)
	default:
		k.Key, err = parsePKIX(kind, der)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

func parsePKIX(kind *Kind, der []byte) (any, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if kind.Form == RSAKey && key.N.BitLen() == int(kind.Bits) && key.E > 1 && key.E <= MaxExponent && key.E%2 == 1 {
			return key, nil
		}
	case *ecdsa.PublicKey:
		if kind.Form == ECKey && (key.Params().BitSize+7)/8 == kind.Size() {
			return key, nil
		}
	case ed25519.PublicKey:
		if kind.Form == EdwardsKey {
			return key, nil
		}
	}
	return nil, errors.New("it is of another kind")
}

// parseSecp256k1 does by hand what crypto/x509 does not do for this curve.
func parseSecp256k1(kind *Kind, der []byte) (*secp256k1.PublicKey, error) {
	point, err := SplitPublic(kind, der)
	if err != nil {
		return nil, err
	}
	if point[0] != 4 { // the library also takes the hybrid forms 06 and 07
		return nil, errors.New("it is not an uncompressed point")
	}
	return secp256k1.ParsePubKey(point)
}

// SplitPublic returns the key in a SubjectPublicKeyInfo (RFC 5280, section
// 4.1) whose algorithm is exactly that of kind.
func SplitPublic(kind *Kind, der []byte) ([]byte, error) {
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
	if len(key) != kind.Point {
		return nil, fmt.Errorf("it has %d bytes, not %d", len(key), kind.Point)
	}
	return key, nil
}

// ECPublicKey encodes a point. CKA_EC_POINT is a DER OCTET STRING, but some
// modules give its contents only.
func (k *Kind) ECPublicKey(value []byte) ([]byte, error) {
	point := cryptobyte.String(value)
	if in := cryptobyte.String(value); len(value) != k.Point {
		if !in.ReadASN1(&point, asn1.OCTET_STRING) || !in.Empty() || len(point) != k.Point {
			return nil, backends.Errorf(backends.Internal, "CKA_EC_POINT of %d bytes does not hold a point of %d bytes", len(value), k.Point)
		}
	}
	if k.Form == ECKey && point[0] != 4 {
		return nil, backends.Errorf(backends.Internal, "CKA_EC_POINT is not an uncompressed point")
	}
	return k.PointKey(point)
}

// PointKey is the SubjectPublicKeyInfo of a key that is a string of bytes.
func (k *Kind) PointKey(point []byte) ([]byte, error) {
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
