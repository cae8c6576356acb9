package der

import "math/big"

// fermatRounds is how many steps of Fermat's factorisation an RSA modulus must
// survive, 20 µs each at 4,096 bits. It finds primes that are less than
// 2^(n/4+4) apart, n the bits of the modulus. FIPS 186-5 (section A.1.3) wants
// them 2^(n/2-100) apart, which random primes are.
const fermatRounds = 100

// smallPrimes is the product of the odd primes below 1,000.
var smallPrimes = func() *big.Int {
	product := big.NewInt(1)
	for n := int64(3); n < 1000; n += 2 {
		if p := big.NewInt(n); p.ProbablyPrime(0) {
			product.Mul(product, p)
		}
	}
	return product
}()

// WeakModulus reports whether anyone can factor an RSA modulus: it is even, has
// a small factor, is a square, or is the product of two neighbours (p = q and
// p close to q, the mistakes of generators without random numbers).
func WeakModulus(n *big.Int) bool {
	if n.Bit(0) == 0 || new(big.Int).GCD(nil, nil, n, smallPrimes).BitLen() > 1 {
		return true
	}
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) < 0 {
		a.Add(a, one)
	}
	rest, root := new(big.Int), new(big.Int)
	for range fermatRounds { // n = a² - b²?
		rest.Sub(rest.Mul(a, a), n)
		root.Sqrt(rest)
		if root.Mul(root, root).Cmp(rest) == 0 {
			return true
		}
		a.Add(a, one)
	}
	return false
}

// MinExponent is the smallest public exponent of an RSA key that is not the
// token's own (FIPS 186-5, section 5.1: larger than 2^16), maxExponent the largest
// that crypto/rsa takes.
const MinExponent, MaxExponent = 65537, 1<<31 - 1

func FitExponent(e int) bool { return MinExponent <= e && e <= MaxExponent && e%2 == 1 }
