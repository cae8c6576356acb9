// Package mldsa verifies ML-DSA signatures (FIPS 204) of a message, or of a message
// representative mu that was computed elsewhere ("external mu", FIPS 204, section 6.2).
//
// Neither the standard library nor the libraries that implement ML-DSA have the
// latter in their interface, and PKCS#11 3.2 has no mechanism for it. Everything here
// is public, so nothing has to take constant time.
package mldsa

import (
	"bytes"
	"crypto/sha3"
)

const (
	q = 8380417
	n = 256
	d = 13 // dropped bits of t
	// MuSize is the length of mu in bytes.
	MuSize = 64
)

// Parameters are one of the parameter sets of FIPS 204, table 1.
type Parameters struct {
	k, l, tau, omega int
	beta             int32 // tau times eta
	gamma1           int32
	gamma1Bits       int // of a coefficient of z
	gamma2           int32
	w1Bits           int // of a coefficient of w1
	challenge        int // bytes of c~
}

// The parameter sets.
var (
	MLDSA44 = &Parameters{4, 4, 39, 80, 78, 1 << 17, 18, (q - 1) / 88, 6, 32}
	MLDSA65 = &Parameters{6, 5, 49, 55, 196, 1 << 19, 20, (q - 1) / 32, 4, 48}
	MLDSA87 = &Parameters{8, 7, 60, 75, 120, 1 << 19, 20, (q - 1) / 32, 4, 64}
)

// PublicKeySize is the length of a public key in bytes (table 2).
func (p *Parameters) PublicKeySize() int { return 32 + 320*p.k }

// SignatureSize is the length of a signature in bytes (table 2).
func (p *Parameters) SignatureSize() int { return p.challenge + p.l*p.gamma1Bits*n/8 + p.omega + p.k }

// Verify reports whether the signature is one of message, with an empty context, by the
// public key (algorithm 3). It is false for a key or signature of any other length.
func (p *Parameters) Verify(public, message, signature []byte) bool {
	return p.VerifyMu(public, representative(public, message), signature)
}

// representative is mu of a message with an empty context: algorithm 7, steps 6 and 7,
// of M' as in algorithm 3, step 5.
func representative(public, message []byte) []byte {
	tr := sha3.SumSHAKE256(public, 64)
	h := sha3.NewSHAKE256()
	for _, part := range [][]byte{tr, {0, 0}, message} {
		_, _ = h.Write(part) // never fails: hash.Hash
	}
	mu := make([]byte, MuSize)
	_, _ = h.Read(mu)
	return mu
}

// VerifyMu reports whether the signature is one of mu by the public key: algorithm
// 8 of FIPS 204 from its step 8 on. It is false for input of any other length.
func (p *Parameters) VerifyMu(public, mu, signature []byte) bool {
	if len(public) != p.PublicKeySize() || len(mu) != MuSize || len(signature) != p.SignatureSize() {
		return false
	}
	challenge, rest := signature[:p.challenge], signature[p.challenge:]
	z := make([]poly, p.l)
	size := p.gamma1Bits * n / 8
	for i := range z {
		if !z[i].unpackZ(p, rest[i*size:(i+1)*size]) {
			return false
		}
		z[i].ntt()
	}
	hints, ok := p.unpackHints(rest[p.l*size:])
	if !ok {
		return false
	}
	var c poly
	c.sampleInBall(challenge, p.tau)
	c.ntt()
	h := sha3.NewSHAKE256()
	_, _ = h.Write(mu) // never fails: hash.Hash
	for i := range p.k {
		w := p.row(public, i, z, &c)
		w.useHint(p, &hints[i])
		_, _ = h.Write(w.pack(p.w1Bits))
	}
	again := make([]byte, p.challenge)
	_, _ = h.Read(again)
	return bytes.Equal(again, challenge)
}

// row is A[i] z - c t1[i] 2^d (algorithm 8, step 9). z and c are in NTT form.
func (p *Parameters) row(public []byte, i int, z []poly, c *poly) *poly {
	var w, t1 poly
	for j := range p.l {
		var a poly
		a.rejNTT(public[:32], byte(j), byte(i))
		for x := range w {
			w[x] = add(w[x], mul(a[x], z[j][x]))
		}
	}
	t1.unpackT1(public[32+320*i : 32+320*(i+1)])
	t1.ntt()
	for x := range w {
		w[x] = sub(w[x], mul(c[x], t1[x]))
	}
	w.inverseNTT()
	return &w
}

// unpackHints is HintBitUnpack (algorithm 21).
func (p *Parameters) unpackHints(y []byte) (hints []poly, ok bool) {
	hints = make([]poly, p.k)
	index := 0
	for i := range hints {
		end := int(y[p.omega+i])
		if end < index || end > p.omega {
			return nil, false
		}
		for first := index; index < end; index++ {
			if index > first && y[index-1] >= y[index] {
				return nil, false
			}
			hints[i][y[index]] = 1
		}
	}
	for _, b := range y[index:p.omega] {
		if b != 0 {
			return nil, false
		}
	}
	return hints, true
}
