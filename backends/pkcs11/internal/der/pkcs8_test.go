package der

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"

	"cmkd/backends"
	"cmkd/backends/backendstest"
)

func pkcs8DER(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// onePrivate is a private key of some specs.
func onePrivate(t testing.TB) map[backends.KeySpec]any {
	t.Helper()
	all := map[backends.KeySpec]any{backends.RSA2048: KnownRSA(), backends.Ed25519: ed25519.NewKeyFromSeed([]byte("the seed of a key for tests, here"[:32]))}
	for spec, curve := range map[backends.KeySpec]elliptic.Curve{
		backends.P256: elliptic.P256(), backends.P384: elliptic.P384(), backends.P521: elliptic.P521(),
	} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all[spec] = k
	}
	return all
}

func TestParsePKCS8(t *testing.T) {
	t.Parallel()
	all := onePrivate(t)
	for of, key := range all {
		der := pkcs8DER(t, key)
		for spec := range all {
			k, err := ParsePKCS8(Kinds[spec], der)
			if (err == nil) != (spec == of) {
				t.Errorf("a private key of spec %s as one of %s: %v", of, spec, err)
			}
			if err == nil {
				sameKey(t, k, key)
			}
		}
		for i := range der {
			if _, err := ParsePKCS8(Kinds[of], der[:i]); err == nil {
				t.Errorf("%s, cut to %d bytes: accepted", of, i)
			}
		}
		if _, err := ParsePKCS8(Kinds[of], append(bytes.Clone(der), 0)); err == nil {
			t.Errorf("%s, trailing data: accepted", of)
		}
		if _, err := ParsePKCS8(Kinds[of], longLength(der)); err == nil {
			t.Errorf("%s, a length in BER: accepted", of)
		}
	}
}

func sameKey(t *testing.T, got *PrivateKey, want any) {
	t.Helper()
	same := false
	switch want := want.(type) {
	case *rsa.PrivateKey:
		same = true
		for i, n := range []*big.Int{
			want.N, big.NewInt(int64(want.E)), want.D, want.Primes[0], want.Primes[1],
			want.Precomputed.Dp, want.Precomputed.Dq, want.Precomputed.Qinv,
		} {
			same = same && bytes.Equal(got.RSA[i], n.Bytes())
		}
	case *ecdsa.PrivateKey:
		raw, err := want.Bytes()
		same = err == nil && bytes.Equal(got.Value, raw)
	case ed25519.PrivateKey:
		der, err := got.EdwardsPublic()
		same = err == nil && bytes.Equal(got.Value, want.Seed()) && bytes.Equal(der, backendstest.PublicDER(t, want.Public()))
	}
	if !same {
		t.Errorf("another private key than %T", want)
	}
}

// FuzzParsePKCS8: whatever is accepted for a spec that the standard library
// knows is a key of that spec for the standard library, or one that it refuses
// for its numbers.
func FuzzParsePKCS8(f *testing.F) {
	for _, key := range onePrivate(f) {
		f.Add(pkcs8DER(f, key))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for spec, kind := range Kinds {
			k, err := ParsePKCS8(kind, der)
			if err != nil || spec == backends.Secp256k1 {
				continue
			}
			std, err := x509.ParsePKCS8PrivateKey(der)
			if err != nil {
				continue
			}
			switch std := std.(type) {
			case *ecdsa.PrivateKey:
				if raw, err := std.Bytes(); err != nil || new(big.Int).SetBytes(k.Value).Cmp(new(big.Int).SetBytes(raw)) != 0 {
					t.Errorf("%s: another number", spec)
				}
			case ed25519.PrivateKey:
				if !bytes.Equal(std.Seed(), k.Value) {
					t.Errorf("%s: another seed", spec)
				}
			case *rsa.PrivateKey:
				if !bytes.Equal(std.D.Bytes(), k.RSA[2]) {
					t.Errorf("%s: another exponent", spec)
				}
			}
		}
	})
}
