package pkcs11_test

import (
	"testing"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
)

// BenchmarkSign compares Sign with bare calls of the module.
func BenchmarkSign(b *testing.B) {
	a := asymmetric(b, open(b, benchToken(b)))
	for _, c := range []struct {
		spec      backends.KeySpec
		algorithm backends.Algorithm
	}{
		{backends.P256, "ECDSA_SHA_256"}, {backends.Ed25519, "ED25519_SHA_512"}, {backends.RSA2048, "RSASSA_PSS_SHA_256"},
	} {
		key := benchKey(b, a, c.spec, backends.SignVerify)
		in := &backends.SignRequest{Key: key, Algorithm: c.algorithm, Type: backends.Raw, Message: make([]byte, 32)}
		b.Run("backend/"+string(c.spec), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.Sign(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("backend-parallel/"+string(c.spec), func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := a.Sign(b.Context(), in); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run("raw/"+string(c.spec), func(b *testing.B) {
			sign := pkcs11.RawSign(a.Token, key, c.algorithm)
			for b.Loop() {
				if rv := sign(in.Message); rv != 0 {
					b.Fatalf("CKR 0x%X", rv)
				}
			}
		})
	}
}

// BenchmarkVerify verifies with the public key in this process.
func BenchmarkVerify(b *testing.B) {
	a := asymmetric(b, open(b, benchToken(b)))
	for _, c := range []struct {
		spec      backends.KeySpec
		algorithm backends.Algorithm
	}{
		{backends.P256, "ECDSA_SHA_256"}, {backends.Ed25519, "ED25519_SHA_512"}, {backends.RSA2048, "RSASSA_PSS_SHA_256"}, {backends.Secp256k1, "ECDSA_SHA_256"},
	} {
		key := benchKey(b, a, c.spec, backends.SignVerify)
		message := make([]byte, 32)
		signed, err := a.Sign(b.Context(), &backends.SignRequest{Key: key, Algorithm: c.algorithm, Type: backends.Raw, Message: message})
		if err != nil {
			b.Fatal(err)
		}
		in := &backends.VerifyRequest{Key: key, Algorithm: c.algorithm, Type: backends.Raw, Message: message, Signature: signed.Signature}
		b.Run(string(c.spec), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if answer, err := a.Verify(b.Context(), in); err != nil || !answer.Valid {
					b.Fatal(err)
				}
			}
		})
	}
}
