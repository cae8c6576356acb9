package der

import (
	"crypto/rand"
	"math/big"
	"testing"
)

func TestWeakModulus(t *testing.T) {
	t.Parallel()
	prime := func(bits int) *big.Int {
		p, err := rand.Prime(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	next := func(p *big.Int, distance int64) *big.Int {
		q := new(big.Int).Add(p, big.NewInt(distance))
		for q.SetBit(q, 0, 1); !q.ProbablyPrime(20); q.Add(q, big.NewInt(2)) {
		}
		return q
	}
	product := func(a, b *big.Int) *big.Int { return new(big.Int).Mul(a, b) }
	p := prime(1024)
	far := next(new(big.Int).Add(p, new(big.Int).Lsh(big.NewInt(1), 515)), 1)
	for name, c := range map[string]struct {
		modulus *big.Int
		weak    bool
	}{
		"two random primes": {product(p, prime(1024)), false},
		"a square":          {product(p, p), true},
		"neighbours":        {product(p, next(p, 2)), true},
		"close primes":      {product(p, next(p, 1<<40)), true},
		"2^515 apart":       {product(p, far), true},
		"a factor of 3":     {product(big.NewInt(3), prime(2046)), true},
		"a factor of 997":   {product(big.NewInt(997), prime(2038)), true},
		"even":              {product(big.NewInt(2), prime(2047)), true},
	} {
		if got := WeakModulus(c.modulus); got != c.weak {
			t.Errorf("%s: weak %t, want %t", name, got, c.weak)
		}
	}
}

func BenchmarkWeakModulus(b *testing.B) {
	p, _ := rand.Prime(rand.Reader, 2048)
	q, _ := rand.Prime(rand.Reader, 2048)
	n := new(big.Int).Mul(p, q)
	for b.Loop() {
		WeakModulus(n)
	}
}
