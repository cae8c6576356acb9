package pkcs11_test

import (
	"fmt"
	"os"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// benchToken makes a token for this process. Tests load the module in
// processes of their own, so benchmarks may do so here.
func benchToken(b *testing.B) *testenv.Token {
	b.Helper()
	tok := testenv.NewToken(b)
	if err := os.Setenv("SOFTHSM2_CONF", tok.ConfFile); err != nil {
		b.Fatal(err)
	}
	return tok
}

func benchKey(b *testing.B, backend backends.Backend, spec backends.KeySpec, usage backends.Usage) backends.Key {
	b.Helper()
	key := backends.Key{ID: backends.KeyID{byte(len(spec)), byte(len(usage)), spec[0]}, Spec: spec, Usage: usage}
	if _, err := backend.CreateKey(b.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:bench:1"}); err != nil {
		b.Fatal(err)
	}
	return key
}

func BenchmarkEncrypt(b *testing.B) {
	tok := benchToken(b)
	s := pkcs11.NewSymmetric(open(b, tok))
	key := benchKey(b, s, backends.SymmetricDefault, backends.EncryptDecrypt)
	aad := make([]byte, 100)
	for _, n := range []int{32, 4096} {
		in := &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: make([]byte, n), AAD: aad}
		answer, err := s.Encrypt(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("backend/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Encrypt(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("backend-decrypt/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			out := &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: answer.Sealed, AAD: aad}
			for b.Loop() {
				if _, err := s.Decrypt(b.Context(), out); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("raw/%d", n), func(b *testing.B) {
			encrypt, _ := pkcs11.RawCalls(s.Token, key.ID)
			for b.Loop() {
				if rv := encrypt(in.Plaintext, aad); rv != 0 {
					b.Fatalf("CKR 0x%X", rv)
				}
			}
		})
		b.Run(fmt.Sprintf("miekg/%d", n), func(b *testing.B) {
			ctx, h := tok.Objects(b)
			object := find(b, ctx, h, key.ID)
			iv := make([]byte, 12)
			for b.Loop() {
				p := p11.NewGCMParams(iv, aad, 128)
				if err := ctx.EncryptInit(h, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, p)}, object); err != nil {
					b.Fatal(err)
				}
				if _, err := ctx.Encrypt(h, in.Plaintext); err != nil {
					b.Fatal(err)
				}
				p.Free()
			}
		})
	}
}

func BenchmarkMAC(b *testing.B) {
	tok := benchToken(b)
	s := pkcs11.NewHMAC(open(b, tok))
	key := benchKey(b, s, backends.HMAC256, backends.GenerateVerifyMAC)
	in := &backends.MACRequest{Key: key, Algorithm: "HMAC_SHA_256", Message: make([]byte, 32)}
	b.Run("backend/32", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.GenerateMAC(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("raw/32", func(b *testing.B) {
		_, sign := pkcs11.RawCalls(s.Token, key.ID)
		for b.Loop() {
			if rv := sign(in.Message); rv != 0 {
				b.Fatalf("CKR 0x%X", rv)
			}
		}
	})
}

func BenchmarkDataKey(b *testing.B) {
	tok := benchToken(b)
	s := pkcs11.NewSymmetric(open(b, tok))
	key := benchKey(b, s, backends.SymmetricDefault, backends.EncryptDecrypt)
	in := &backends.GenerateDataKeyRequest{Key: key, Wrapping: benchKey(b, s, backends.AES256, backends.WrapDataKeys), Length: 32}
	b.Run("without plaintext", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.GenerateDataKey(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
	in.Recipient = benchRecipient(b)
	b.Run("recipient", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.GenerateDataKey(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
	in.Recipient, in.Plaintext = nil, true
	b.Run("plaintext", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.GenerateDataKey(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func find(t testing.TB, ctx *p11.Ctx, s p11.SessionHandle, id backends.KeyID) p11.ObjectHandle {
	t.Helper()
	if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, id[:])}); err != nil {
		t.Fatal(err)
	}
	objects, _, err := ctx.FindObjects(s, 2)
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d objects with CKA_ID %s: %v", len(objects), id, err)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	return objects[0]
}
