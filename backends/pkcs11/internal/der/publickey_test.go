package der

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"cmkd/backends"
	"cmkd/backends/backendstest"
)

// secp256k1DER is the SubjectPublicKeyInfo of a fresh key.
func secp256k1DER(t testing.TB) []byte {
	t.Helper()
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := Kinds[backends.Secp256k1].PointKey(k.PubKey().SerializeUncompressed())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// onePublic is a public key of each spec.
func onePublic(t testing.TB) map[backends.KeySpec][]byte {
	t.Helper()
	all := map[backends.KeySpec][]byte{
		backends.RSA2048: backendstest.PublicDER(t, &KnownRSA().PublicKey), backends.Secp256k1: secp256k1DER(t),
	}
	for spec, curve := range map[backends.KeySpec]elliptic.Curve{
		backends.P256: elliptic.P256(), backends.P384: elliptic.P384(), backends.P521: elliptic.P521(),
	} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all[spec] = backendstest.PublicDER(t, &k.PublicKey)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	all[backends.Ed25519] = backendstest.PublicDER(t, public)
	return all
}

func TestParsePublic(t *testing.T) {
	t.Parallel()
	all := onePublic(t)
	for spec := range all {
		for of, der := range all {
			k, err := ParsePublic(spec, der)
			if (err == nil) != (spec == of) {
				t.Errorf("a public key of spec %s as one of %s: %v", of, spec, err)
			}
			if err == nil && (k.Key == nil || !bytes.Equal(k.DER, der)) {
				t.Errorf("%s: %+v", spec, k)
			}
		}
		good := all[spec]
		for name, der := range map[string][]byte{
			"nothing":       nil,
			"cut":           good[:len(good)-1],
			"trailing data": append(bytes.Clone(good), 0),
			"PEM":           pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: good}),
			"long length":   longLength(good),
		} {
			if _, err := ParsePublic(spec, der); err == nil {
				t.Errorf("%s, %s: accepted", spec, name)
			}
		}
	}
	small := KnownRSA().PublicKey
	for _, e := range []int{1, 4, 1<<31 + 1} {
		small.E = e
		if _, err := ParsePublic(backends.RSA2048, backendstest.PublicDER(t, &small)); err == nil {
			t.Errorf("the RSA exponent %d is accepted", e)
		}
	}
	if _, err := ParsePublic(backends.RSA3072, all[backends.RSA2048]); err == nil {
		t.Error("an RSA key of another length is accepted")
	}
}

// longLength writes the outer length in a byte more than it needs (BER).
func longLength(der []byte) []byte {
	body := der[2:]
	head := []byte{der[0], 0x82, 0, der[1]}
	switch der[1] {
	case 0x81:
		body, head = der[3:], []byte{der[0], 0x82, 0, der[2]}
	case 0x82:
		body, head = der[4:], []byte{der[0], 0x83, 0, der[2], der[3]}
	}
	return append(head, body...)
}

// TestRecoverPoint recovers public points from signatures of Go.
func TestRecoverPoint(t *testing.T) {
	t.Parallel()
	for spec, curve := range map[backends.KeySpec]elliptic.Curve{
		backends.P256: elliptic.P256(), backends.P384: elliptic.P384(), backends.P521: elliptic.P521(),
	} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		// A digest longer than the order is cut (FIPS 186-5, section 6.4.1).
		for _, n := range []int{20, 32, 48, 64} {
			digest := make([]byte, n)
			_, _ = rand.Read(digest) // never fails
			r, s, err := ecdsa.Sign(rand.Reader, k, digest)
			if err != nil {
				t.Fatal(err)
			}
			points := Kinds[spec].Curve.Candidates(digest, r, s)
			if !slices.ContainsFunc(points, func(p *point) bool { return p.x.Cmp(k.X) == 0 && p.y.Cmp(k.Y) == 0 }) {
				t.Errorf("%s, a digest of %d bytes: the right point is not among %d", spec, n, len(points))
			}
		}
	}
	// r of 0 or of a point that is not there has no candidates.
	c := Kinds[backends.P256].Curve
	if points := c.Candidates(make([]byte, 32), new(big.Int), big.NewInt(1)); len(points) != 0 {
		t.Error("r of 0 has candidates")
	}
}

// TestWeierstrass checks the arithmetic against known multiples of the base
// point: the order gives the point at infinity, and n-1 the negative.
func TestWeierstrass(t *testing.T) {
	t.Parallel()
	for spec, k := range Kinds {
		c := k.Curve
		if c == nil { // RSA, Edwards
			continue
		}
		g := &point{c.gx, c.gy}
		if c.multiply(c.n, g) != nil {
			t.Errorf("%s: n times the base point is not the point at infinity", spec)
		}
		last := c.multiply(new(big.Int).Sub(c.n, big.NewInt(1)), g)
		if minus := c.negate(g); last.x.Cmp(minus.x) != 0 || last.y.Cmp(minus.y) != 0 {
			t.Errorf("%s: n-1 times the base point is not its negative", spec)
		}
		if c.add(last, g) != nil || c.add(nil, g) != g || c.add(g, nil) != g || c.negate(nil) != nil {
			t.Errorf("%s: the point at infinity is not neutral", spec)
		}
		n, err := rand.Int(rand.Reader, c.n)
		if err != nil {
			t.Fatal(err)
		}
		p := c.multiply(n, g)
		y2 := new(big.Int).Exp(p.y, big.NewInt(2), c.p)
		if lifted := c.lift(p.x); lifted == nil || new(big.Int).Exp(lifted.y, big.NewInt(2), c.p).Cmp(y2) != 0 {
			t.Errorf("%s: a multiple of the base point is not on the curve", spec)
		}
	}
	k, err := secp256k1.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	c := Kinds[backends.Secp256k1].Curve
	p := c.multiply(new(big.Int).SetBytes(k.Serialize()), &point{c.gx, c.gy})
	if p.x.Cmp(k.PubKey().X()) != 0 || p.y.Cmp(k.PubKey().Y()) != 0 {
		t.Error("secp256k1: another library computes another public key")
	}
}

func FuzzParsePublic(f *testing.F) {
	for _, der := range onePublic(f) {
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for spec, kind := range Kinds {
			k, err := ParsePublic(spec, der)
			if err != nil {
				continue
			}
			if kind.Form != RSAKey {
				p, err := SplitPublic(kind, der)
				if err != nil {
					t.Fatalf("%s: %v", spec, err)
				}
				if again, err := kind.PointKey(p); err != nil || !bytes.Equal(again, k.DER) {
					t.Errorf("%s: there are two encodings of one key", spec)
				}
			}
			if key, ok := k.Key.(*rsa.PublicKey); ok && key.N.BitLen() != int(kind.Bits) {
				t.Errorf("%s: a modulus of %d bits", spec, key.N.BitLen())
			}
		}
	})
}
