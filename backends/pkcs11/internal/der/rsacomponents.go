package der

import "math/big"

// Consistent reports whether the numbers of an RSA private key belong together: n = pq,
// de = 1 modulo p-1 and q-1, the exponents and the coefficient of the Chinese remainder
// theorem are those of d, reduced, and e is one that [FitExponent] takes (RFC 8017, section
// 3.2). The primes may differ in length by a word.
// Tokens correct what disagrees with the rest of the key, so that no signature shows it
// (OpenSSL, and so SoftHSM2). Whether p and q are primes is for a trial of the key to say.
func (k *PrivateKey) Consistent() bool {
	var s scratch
	defer s.wipe()
	var v [8]*big.Int
	for i, b := range k.RSA {
		longest := int(k.Kind.Bits) / 8
		if i > 2 { // the primes, and what is modulo them
			longest = longest/2 + 8
		}
		if len(b) > longest {
			return false // bounds the work, and the products below
		}
		v[i] = s.number().SetBytes(b)
	}
	n, e, d, p, q, dp, dq, coefficient := v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
	if !e.IsInt64() || !FitExponent(int(min(e.Int64(), MaxExponent+1))) || s.number().Mul(p, q).Cmp(n) != 0 || p.Cmp(one) <= 0 || q.Cmp(one) <= 0 {
		return false
	}
	if dp.Cmp(p) >= 0 || dq.Cmp(q) >= 0 || coefficient.Cmp(p) >= 0 {
		return false
	}
	p1, q1 := s.number().Sub(p, one), s.number().Sub(q, one)
	ed := s.number().Mul(e, d)
	return s.isOne(ed, p1) && s.isOne(ed, q1) &&
		s.isOne(s.number().Mul(e, dp), p1) && s.isOne(s.number().Mul(e, dq), q1) &&
		s.isOne(s.number().Mul(q, coefficient), p)
}

var one = big.NewInt(1)

// scratch are numbers that are wiped after use. Only what works in place may be done
// with them: sums, shifts, and products of fewer than 40 words, which math/big forms
// without temporary numbers. A division leaves some behind.
type scratch []*big.Int

// scratchWords is room for every product here: 4,096 bits by 4,096 bits.
const scratchWords = 132

func (s *scratch) number() *big.Int {
	x := new(big.Int).SetBits(make([]big.Word, 0, scratchWords))
	*s = append(*s, x)
	return x
}

func (s *scratch) wipe() {
	for _, x := range *s {
		bits := x.Bits()
		clear(bits[:cap(bits)])
	}
}

// isOne reports whether x is 1 modulo m, by subtraction, bit after bit.
func (s *scratch) isOne(x, m *big.Int) bool {
	r := s.number()
	for i := x.BitLen() - 1; i >= 0; i-- {
		r.Lsh(r, 1)
		if x.Bit(i) == 1 {
			r.Add(r, one)
		}
		if r.Cmp(m) >= 0 {
			r.Sub(r, m)
		}
	}
	return r.Cmp(one) == 0
}
