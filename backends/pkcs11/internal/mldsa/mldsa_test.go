package mldsa

import (
	"bytes"
	"crypto/rand"
	"crypto/sha3"
	mrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// mu is that of a message without a context (FIPS 204, algorithms 3 and 7).
func mu(public, message []byte) []byte {
	h := sha3.NewSHAKE256()
	tr := sha3.SumSHAKE256(public, 64)
	for _, b := range [][]byte{tr, {0, 0}, message} {
		_, _ = h.Write(b)
	}
	out := make([]byte, MuSize)
	_, _ = h.Read(out)
	return out
}

// TestVerifyMu compares with another implementation, which takes the message:
// on signatures, and on signatures, keys and messages of which one bit differs.
func TestVerifyMu(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p *Parameters
		s sign.Scheme
	}{
		"ML-DSA-44": {MLDSA44, mldsa44.Scheme()}, "ML-DSA-65": {MLDSA65, mldsa65.Scheme()}, "ML-DSA-87": {MLDSA87, mldsa87.Scheme()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.p.PublicKeySize() != c.s.PublicKeySize() || c.p.SignatureSize() != c.s.SignatureSize() {
				t.Fatalf("a public key has %d bytes, a signature %d", c.p.PublicKeySize(), c.p.SignatureSize())
			}
			for range 30 {
				public, private, err := c.s.GenerateKey()
				if err != nil {
					t.Fatal(err)
				}
				key, err := public.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				message := make([]byte, mrand.IntN(200))
				_, _ = rand.Read(message)
				signature := c.s.Sign(private, message, nil)
				if !c.p.VerifyMu(key, mu(key, message), signature) || !c.p.Verify(key, message, signature) {
					t.Fatalf("a signature of %x by %x is refused", message, key)
				}
				if c.p.Verify(key, slices.Concat(message, []byte{0}), signature) {
					t.Error("a signature of another message passes")
				}
				for range 20 {
					at := mrand.IntN(8 * len(signature))
					bad := flipped(signature, at)
					if got, want := c.p.VerifyMu(key, mu(key, message), bad), c.s.Verify(public, message, bad, nil); got != want || got {
						t.Errorf("bit %d of the signature altered: %t, another implementation says %t", at, got, want)
					}
				}
				if c.p.VerifyMu(key, flipped(mu(key, message), mrand.IntN(8*MuSize)), signature) {
					t.Error("a signature of another mu passes")
				}
				if other := flipped(key, mrand.IntN(8*len(key))); c.p.VerifyMu(other, mu(other, message), signature) {
					t.Error("a signature by another key passes")
				}
			}
		})
	}
}

// TestVerifyMuForms: signatures whose parts are out of their ranges.
func TestVerifyMuForms(t *testing.T) {
	t.Parallel()
	public, private, err := mldsa65.Scheme().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := public.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	good, m := mldsa65.Scheme().Sign(private, message, nil), mu(key, message)
	hints := len(good) - MLDSA65.omega - MLDSA65.k
	counts := good[len(good)-MLDSA65.k:]
	for name, change := range map[string]func(s []byte){
		"z is the largest":       func(s []byte) { copy(s[MLDSA65.challenge:], []byte{0, 0, 0}) },
		"z is the smallest":      func(s []byte) { copy(s[MLDSA65.challenge:], []byte{0xff, 0xff, 0xff}) },
		"more hints than omega":  func(s []byte) { s[len(s)-1] = byte(MLDSA65.omega + 1) },
		"hints that go back":     func(s []byte) { s[len(s)-2] = s[len(s)-1] + 1 },
		"two hints in one place": func(s []byte) { s[hints+1] = s[hints] },
		"hints out of order":     func(s []byte) { s[hints], s[hints+1] = s[hints+1], s[hints] },
		"a hint after the last": func(s []byte) {
			if last := int(counts[MLDSA65.k-1]); last < MLDSA65.omega {
				s[hints+last] = 1
			} else {
				s[0] ^= 1
			}
		},
	} {
		bad := bytes.Clone(good)
		change(bad)
		if MLDSA65.VerifyMu(key, m, bad) || mldsa65.Scheme().Verify(public, message, bad, nil) {
			t.Errorf("%s: it passes", name)
		}
	}
	for name, got := range map[string]bool{
		"short key":       MLDSA65.VerifyMu(key[1:], m, good),
		"short mu":        MLDSA65.VerifyMu(key, m[1:], good),
		"short signature": MLDSA65.VerifyMu(key, m, good[1:]),
		"long signature":  MLDSA65.VerifyMu(key, m, append(bytes.Clone(good), 0)),
		"nothing":         MLDSA65.VerifyMu(nil, nil, nil),
		"another set":     MLDSA87.VerifyMu(key, m, good),
	} {
		if got {
			t.Errorf("%s: it passes", name)
		}
	}
}

func flipped(b []byte, bit int) []byte {
	c := bytes.Clone(b)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}
