package der

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"cmkd/backends"
)

// TestConsistent: the keys that others make are consistent, and no number of them may be
// another one.
func TestConsistent(t *testing.T) {
	t.Parallel()
	for spec, bits := range map[backends.KeySpec]int{backends.RSA2048: 2048, backends.RSA3072: 3072, backends.RSA4096: 4096} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		der := pkcs8DER(t, key)
		k, err := ParsePKCS8(Kinds[spec], der)
		if err != nil || !k.Consistent() {
			t.Fatalf("%s: a good key: %v", spec, err)
		}
		// The private exponent modulo (p-1)(q-1), as older programs make it.
		phi := new(big.Int).Mul(new(big.Int).Sub(key.Primes[0], one), new(big.Int).Sub(key.Primes[1], one))
		other := *k
		other.RSA[2] = new(big.Int).ModInverse(big.NewInt(int64(key.E)), phi).Bytes()
		if !other.Consistent() {
			t.Errorf("%s: a private exponent modulo (p-1)(q-1)", spec)
		}
		for i, modulus := range map[int]*big.Int{
			5: new(big.Int).Sub(key.Primes[0], one), 6: new(big.Int).Sub(key.Primes[1], one), 7: key.Primes[0],
		} {
			other := *k
			other.RSA[i] = new(big.Int).Add(new(big.Int).SetBytes(k.RSA[i]), modulus).Bytes()
			if other.Consistent() {
				t.Errorf("%s: number %d is not reduced", spec, i)
			}
		}
		for i := range k.RSA {
			for name, value := range map[string][]byte{
				"nothing": {}, "0": {0}, "1": {1}, "the modulus": key.N.Bytes(), "too long": make([]byte, bits/8+1),
				"one more": new(big.Int).Add(new(big.Int).SetBytes(k.RSA[i]), one).Bytes(),
			} {
				if i == 0 && name == "the modulus" {
					continue
				}
				other := *k
				other.RSA[i] = value
				if other.Consistent() {
					t.Errorf("%s: number %d is %s", spec, i, name)
				}
			}
		}
	}
}

// TestScratchIsWiped: numbers that did not outgrow their room leave nothing behind.
func TestScratchIsWiped(t *testing.T) {
	t.Parallel()
	var s scratch
	x := s.number().SetBytes([]byte("a secret number"))
	product := s.number().Mul(x, x)
	s.isOne(product, x)
	for _, y := range s {
		if n := cap(y.Bits()); n != scratchWords {
			t.Errorf("a number has moved to a room of %d words", n)
		}
	}
	room := [][]big.Word{x.Bits()[:scratchWords], product.Bits()[:scratchWords]}
	if room[0][0] == 0 || room[1][0] == 0 {
		t.Fatal("nothing to wipe")
	}
	s.wipe()
	for _, words := range room {
		for _, w := range words {
			if w != 0 {
				t.Fatal("something is left")
			}
		}
	}
}

func BenchmarkConsistent(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		b.Fatal(err)
	}
	k, err := ParsePKCS8(Kinds[backends.RSA4096], pkcs8DER(b, key))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k.Consistent()
	}
}
