package pkcs11_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
)

// BenchmarkProof says what it costs, in microseconds of processor time, to make something and to
// check it before it leaves: signatures with the public key in this process, MACs and ciphertexts in the
// token. docs/decisions/0029-checked-output.md decides by it.
func BenchmarkProof(b *testing.B) {
	k := open(b, benchToken(b))
	a, s, h := asymmetric(b, k), pkcs11.NewSymmetric(k), pkcs11.NewHMAC(k)
	message := make([]byte, 32)
	for _, spec := range []backends.KeySpec{
		backends.RSA2048, backends.P256, backends.P384, backends.P521, backends.Secp256k1, backends.Ed25519,
	} {
		key, _ := newPair(b, a, spec, backends.SignVerify)
		sign := &backends.SignRequest{Key: key, Algorithm: firstAlgorithm[spec], Type: backends.Raw, Message: message}
		signed, err := a.Sign(b.Context(), sign)
		if err != nil {
			b.Fatal(err)
		}
		processor(b, string(spec)+"/make", func() error { _, err := a.Sign(b.Context(), sign); return err })
		in := &backends.VerifyRequest{Key: key, Algorithm: sign.Algorithm, Type: sign.Type, Message: message, Signature: signed.Signature}
		processor(b, string(spec)+"/check", func() error { _, err := a.Verify(b.Context(), in); return err })
	}
	mac := &backends.MACRequest{Key: benchKey(b, h, backends.HMAC256, backends.GenerateVerifyMAC), Algorithm: "HMAC_SHA_256", Message: message}
	processor(b, "HMAC_256/make", func() error { _, err := h.GenerateMAC(b.Context(), mac); return err })
	key := benchKey(b, s, backends.SymmetricDefault, backends.EncryptDecrypt)
	encrypt := &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: message}
	made, err := s.Encrypt(b.Context(), encrypt)
	if err != nil {
		b.Fatal(err)
	}
	processor(b, "SYMMETRIC_DEFAULT/make", func() error { _, err := s.Encrypt(b.Context(), encrypt); return err })
	decrypt := &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: made.Sealed}
	processor(b, "SYMMETRIC_DEFAULT/check", func() error { _, err := s.Decrypt(b.Context(), decrypt); return err })
}

// processor runs a benchmark that reports the processor time of its process.
func processor(b *testing.B, name string, do func() error) {
	b.Run(name, func(b *testing.B) {
		before := used(b)
		for b.Loop() {
			if err := do(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((used(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	})
}

// used is the processor time that the process has used.
func used(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
