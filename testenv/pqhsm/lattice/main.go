// Command lattice computes ML-KEM and ML-DSA for the module of pqhsm, which asks
// on standard input and reads on standard output.
//
// A request is an operation byte, then two values; an answer is two values. A
// value is its length, four bytes with the highest first, and its bytes. What
// fails answers two empty values.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"

	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem512"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// By CKA_PARAMETER_SET (PKCS#11 3.2).
var (
	kems       = map[byte]kem.Scheme{1: mlkem512.Scheme(), 2: mlkem768.Scheme(), 3: mlkem1024.Scheme()}
	signatures = map[byte]sign.Scheme{1: mldsa44.Scheme(), 2: mldsa65.Scheme(), 3: mldsa87.Scheme()}
)

// The operations are 16 times one of these, and the parameter set.
const (
	newKEM      = iota // gives the seed and the public key
	encapsulate        // a public key: the secret and its ciphertext
	decapsulate        // a seed and a ciphertext: the secret
	newSigning         // gives the seed and the public key
	signMessage        // a seed and a message: the signature
	verify             // a public key, and a signature before its message: one byte if it fits
)

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	for {
		op, err := in.ReadByte()
		if err != nil {
			return // the module is gone
		}
		a, b := compute(op, read(in), read(in))
		write(out, a)
		write(out, b)
		_ = out.Flush() // as above
	}
}

func compute(op byte, a, b []byte) (x, y []byte) {
	k, s := kems[op%16], signatures[op%16]
	switch op / 16 {
	case newKEM:
		seed := random(k.SeedSize())
		public, _ := k.DeriveKeyPair(seed)
		return seed, must(public.MarshalBinary())
	case encapsulate:
		public, err := k.UnmarshalBinaryPublicKey(a)
		if err != nil {
			return nil, nil
		}
		ciphertext, secret, err := k.Encapsulate(public)
		if err != nil {
			return nil, nil
		}
		return secret, ciphertext
	case decapsulate:
		_, private := k.DeriveKeyPair(a)
		secret, err := k.Decapsulate(private, b)
		if err != nil {
			return nil, nil
		}
		return secret, nil
	case newSigning:
		seed := random(s.SeedSize())
		public, _ := s.DeriveKey(seed)
		return seed, must(public.MarshalBinary())
	case signMessage:
		_, private := s.DeriveKey(a)
		return s.Sign(private, b, nil), nil
	case verify:
		public, err := s.UnmarshalBinaryPublicKey(a)
		n := s.SignatureSize()
		if err == nil && len(b) >= n && s.Verify(public, b[n:], b[:n], nil) {
			return []byte{1}, nil
		}
	}
	return nil, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return b
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err) // of a key that was just made
	}
	return b
}

func read(in io.Reader) []byte {
	var n [4]byte
	if _, err := io.ReadFull(in, n[:]); err != nil {
		os.Exit(0) // the module is gone
	}
	b := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(in, b); err != nil {
		os.Exit(0)
	}
	return b
}

func write(out io.Writer, b []byte) {
	_, _ = out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) // as in main
	_, _ = out.Write(b)
}
