package mldsa

import (
	"crypto/sha3"
	"math/bits"
)

// poly is a polynomial, or its NTT: coefficients from 0 to q-1.
type poly [n]int32

func add(a, b int32) int32 { return (a + b) % q }
func sub(a, b int32) int32 { return (a - b + q) % q }
func mul(a, b int32) int32 { return int32(int64(a) * int64(b) % q) }

// zetas are the powers of the root of unity 1753 in the order of the NTT (FIPS
// 204, appendix B).
var zetas = func() (z [n]int32) {
	power := int32(1)
	var powers [n]int32
	for i := range powers {
		powers[i] = power
		power = mul(power, 1753)
	}
	for i := range z {
		z[i] = powers[bits.Reverse8(uint8(i))]
	}
	return z
}()

// ntt is algorithm 41.
func (w *poly) ntt() {
	m := 0
	for length := 128; length >= 1; length /= 2 {
		for start := 0; start < n; start += 2 * length {
			m++
			for j := start; j < start+length; j++ {
				t := mul(zetas[m], w[j+length])
				w[j], w[j+length] = add(w[j], t), sub(w[j], t)
			}
		}
	}
}

// inverseNTT is algorithm 42.
func (w *poly) inverseNTT() {
	const inverse256 = 8347681 // of 256 modulo q
	m := n
	for length := 1; length < n; length *= 2 {
		for start := 0; start < n; start += 2 * length {
			m--
			for j := start; j < start+length; j++ {
				t := w[j]
				w[j] = add(t, w[j+length])
				w[j+length] = mul(q-zetas[m], sub(t, w[j+length]))
			}
		}
	}
	for j := range w {
		w[j] = mul(w[j], inverse256)
	}
}

// rejNTT is an entry of the matrix A: RejNTTPoly (algorithm 30) as ExpandA
// (algorithm 32) calls it.
func (w *poly) rejNTT(rho []byte, column, row byte) {
	h := sha3.NewSHAKE128()
	_, _ = h.Write(append(append([]byte{}, rho...), column, row)) // never fails: hash.Hash
	var b [3]byte
	for j := 0; j < n; {
		_, _ = h.Read(b[:])
		if c := int32(b[0]) | int32(b[1])<<8 | int32(b[2]&0x7f)<<16; c < q {
			w[j] = c
			j++
		}
	}
}

// sampleInBall is algorithm 29.
func (w *poly) sampleInBall(seed []byte, tau int) {
	h := sha3.NewSHAKE256()
	_, _ = h.Write(seed) // never fails: hash.Hash
	var signs [8]byte
	_, _ = h.Read(signs[:])
	for i := n - tau; i < n; i++ {
		var j [1]byte
		for {
			if _, _ = h.Read(j[:]); int(j[0]) <= i {
				break
			}
		}
		w[i] = w[j[0]]
		w[j[0]] = 1
		if bit := i + tau - n; signs[bit/8]>>(bit%8)&1 == 1 {
			w[j[0]] = q - 1
		}
	}
}

// field is the i-th of fields of so many bits, the lowest first.
func field(b []byte, i, size int) int32 {
	v := int32(0)
	for x := range size {
		at := i*size + x
		v |= int32(b[at/8]>>(at%8)&1) << x
	}
	return v
}

// unpackT1 is a polynomial of t1 times 2^d (algorithm 23).
func (w *poly) unpackT1(b []byte) {
	for j := range w {
		w[j] = mul(field(b, j, 10), 1<<d)
	}
}

// unpackZ is a polynomial of z (algorithm 27). It fails if a coefficient is not
// below gamma1 - beta.
func (w *poly) unpackZ(p *Parameters, b []byte) bool {
	for j := range w {
		c := p.gamma1 - field(b, j, p.gamma1Bits)
		if max(c, -c) >= p.gamma1-p.beta {
			return false
		}
		w[j] = (c + q) % q
	}
	return true
}

// useHint is algorithm 40, of every coefficient.
func (w *poly) useHint(p *Parameters, hint *poly) {
	m := (q - 1) / (2 * p.gamma2)
	for j, r := range w {
		// Decompose (algorithm 36).
		r0 := r % (2 * p.gamma2)
		if r0 > p.gamma2 {
			r0 -= 2 * p.gamma2
		}
		r1 := (r - r0) / (2 * p.gamma2)
		if r-r0 == q-1 {
			r1, r0 = 0, r0-1
		}
		switch {
		case hint[j] == 0:
		case r0 > 0:
			r1 = (r1 + 1) % m
		default:
			r1 = (r1 - 1 + m) % m
		}
		w[j] = r1
	}
}

// pack is SimpleBitPack (algorithm 16).
func (w *poly) pack(size int) []byte {
	b := make([]byte, n*size/8)
	for j, c := range w {
		for x := range size {
			at := j*size + x
			b[at/8] |= byte(c>>x&1) << (at % 8)
		}
	}
	return b
}
