package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11/internal/der"
)

// TestParsePeer refuses points that would give a private key away.
func TestParsePeer(t *testing.T) {
	t.Parallel()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := backendstest.PublicDER(t, k.PublicKey())
	if point, err := parsePeer(backends.P256, good); err != nil || !bytes.Equal(point, k.PublicKey().Bytes()) {
		t.Errorf("the point is %x, %v", point, err)
	}
	point := len(good) - 65
	off := bytes.Clone(good)
	off[len(off)-1] ^= 1
	outside := slices.Concat(good[:point+1], elliptic.P256().Params().P.FillBytes(make([]byte, 32)), good[point+33:])
	hybrid := bytes.Clone(good)
	hybrid[point] = 6 | hybrid[len(hybrid)-1]&1
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, encoded := range map[string][]byte{
		"off the curve": off, "a coordinate of p": outside, "hybrid": hybrid, "all zeros": append(bytes.Clone(good[:point]), make([]byte, 65)...),
		"another curve": backendstest.PublicDER(t, p384.PublicKey()), "secp256k1": secp256k1SPKI(t), "RSA": backendstest.PublicDER(t, &rsa.PublicKey{N: der.KnownRSA().N, E: 65537}),
		"nothing": nil, "only the point": k.PublicKey().Bytes(),
	} {
		_, err := parsePeer(backends.P256, encoded)
		if backends.CodeOf(err) != backends.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// secp256k1SPKI is the SubjectPublicKeyInfo of a fresh key.
func secp256k1SPKI(t testing.TB) []byte {
	t.Helper()
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := der.Kinds[backends.Secp256k1].PointKey(k.PubKey().SerializeUncompressed())
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}
