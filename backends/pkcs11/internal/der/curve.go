package der

import (
	"crypto/elliptic"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// A token does not tell the public point of a private key that was unwrapped
// in it. Two ECDSA signatures do (SEC 1, section 4.1.6): each fits only a few
// points, and only the right one fits both.
//
// The arithmetic is of public values only, so that it need not be of constant
// time; it is the same for the NIST curves, which the standard library has,
// and secp256k1, which it has not.

// weierstrass is a curve y² = x³ + ax + b over the integers modulo p, with a
// base point of prime order n.
type weierstrass struct{ p, a, b, n, gx, gy *big.Int }

func nistCurve(c elliptic.Curve) *weierstrass {
	p := c.Params()
	a := new(big.Int).Sub(p.P, big.NewInt(3))
	return &weierstrass{p.P, a, p.B, p.N, p.Gx, p.Gy}
}

func secp256k1Curve() *weierstrass {
	p := secp256k1.Params()
	return &weierstrass{p.P, new(big.Int), big.NewInt(7), p.N, p.Gx, p.Gy}
}

// Point is an affine point; nil is the point at infinity.
type point struct{ x, y *big.Int }

func (c *weierstrass) mod(v *big.Int) *big.Int { return v.Mod(v, c.p) }

// lift returns a point with the given x coordinate, nil if there is none.
func (c *weierstrass) lift(x *big.Int) *point {
	y2 := new(big.Int).Mul(x, x)
	y2.Add(y2, c.a)
	y2.Mul(y2, x)
	y2.Add(y2, c.b)
	y := new(big.Int).ModSqrt(c.mod(y2), c.p)
	if y == nil {
		return nil
	}
	return &point{x, y}
}

func (c *weierstrass) negate(p *point) *point {
	if p == nil {
		return nil
	}
	return &point{p.x, c.mod(new(big.Int).Neg(p.y))}
}

func (c *weierstrass) add(p, q *point) *point {
	if p == nil {
		return q
	}
	if q == nil {
		return p
	}
	var slope, divisor *big.Int
	if p.x.Cmp(q.x) != 0 {
		slope, divisor = new(big.Int).Sub(q.y, p.y), new(big.Int).Sub(q.x, p.x)
	} else {
		if c.mod(new(big.Int).Add(p.y, q.y)).Sign() == 0 {
			return nil
		}
		slope = new(big.Int).Mul(p.x, p.x)
		slope.Mul(slope, big.NewInt(3))
		slope.Add(slope, c.a)
		divisor = new(big.Int).Lsh(p.y, 1)
	}
	slope.Mul(slope, divisor.ModInverse(c.mod(divisor), c.p))
	c.mod(slope)
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x, p.x)
	c.mod(x.Sub(x, q.x))
	y := new(big.Int).Sub(p.x, x)
	y.Mul(y, slope)
	c.mod(y.Sub(y, p.y))
	return &point{x, y}
}

func (c *weierstrass) multiply(k *big.Int, p *point) *point {
	var sum *point
	for i := k.BitLen() - 1; i >= 0; i-- {
		sum = c.add(sum, sum)
		if k.Bit(i) == 1 {
			sum = c.add(sum, p)
		}
	}
	return sum
}

// Candidates returns the points for which (r, s) is a signature of digest.
func (c *weierstrass) Candidates(digest []byte, r, s *big.Int) []*point {
	e := new(big.Int).SetBytes(digest)
	if excess := 8*len(digest) - c.n.BitLen(); excess > 0 {
		e.Rsh(e, uint(excess))
	}
	rInverse := new(big.Int).ModInverse(r, c.n)
	if rInverse == nil {
		return nil
	}
	e.Mul(e, rInverse)
	minusE := e.Mod(e.Neg(e), c.n)
	s = new(big.Int).Mul(s, rInverse)
	s.Mod(s, c.n)
	fixed := c.multiply(minusE, &point{c.gx, c.gy})
	var all []*point
	for x := new(big.Int).Set(r); x.Cmp(c.p) < 0; x = new(big.Int).Add(x, c.n) {
		nonce := c.lift(x)
		if nonce == nil {
			continue
		}
		for _, k := range []*point{nonce, c.negate(nonce)} {
			if q := c.add(c.multiply(s, k), fixed); q != nil {
				all = append(all, q)
			}
		}
	}
	return all
}

// EncodePoint encodes uncompressed (SEC 1, section 2.3.3).
func (k *Kind) EncodePoint(q *point) []byte {
	b := make([]byte, k.Point)
	b[0] = 4
	q.x.FillBytes(b[1 : 1+k.Size()])
	q.y.FillBytes(b[1+k.Size():])
	return b
}
