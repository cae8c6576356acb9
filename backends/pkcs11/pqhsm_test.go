package pkcs11_test

import (
	"bytes"
	"crypto/mlkem"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"

	"cmkd/backends"
	"cmkd/testenv"
	"cmkd/testenv/pqhsm"
)

// TestPostQuantum runs the asymmetric backend on a token with the mechanisms of
// PKCS#11 3.2.
func TestPostQuantum(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		path, env := pqhsm.New(t, tok.Module)
		setenv(t, env)
		tok.Module = path
		b := asymmetric(t, open(t, tok))
		info, err := b.Info(t.Context(), &backends.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range info.Specs {
			if s.Unsupported != "" {
				t.Errorf("%s lacks %s", s.Spec, s.Unsupported)
			}
		}
		for _, spec := range []backends.KeySpec{backends.MLKEM512, backends.MLKEM768, backends.MLKEM1024} {
			t.Run(string(spec), func(t *testing.T) { encapsulates(t, b, spec) })
		}
		for spec, verify := range mlDSA {
			t.Run(string(spec), func(t *testing.T) { signsMLDSA(t, b, spec, verify) })
		}
	})
}

// created makes a key twice and returns the bits of its public key, which must be
// the same each time.
func created(t *testing.T, b backends.Backend, key backends.Key) []byte {
	t.Helper()
	in := &backends.CreateKeyRequest{Key: key, Label: "cmkd:pq:1"}
	made, err := b.CreateKey(t.Context(), in)
	if err != nil || made.Existed {
		t.Fatalf("CreateKey: %+v, %v", made, err)
	}
	again, err := b.CreateKey(t.Context(), in)
	if err != nil || !again.Existed || !bytes.Equal(again.PublicKey, made.PublicKey) {
		t.Errorf("CreateKey again: %v", err)
	}
	checked, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
	if err != nil || !bytes.Equal(checked.PublicKey, made.PublicKey) {
		t.Errorf("CheckKey: %v", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(made.PublicKey, &info); err != nil || len(rest) != 0 {
		t.Fatalf("the public key is no SubjectPublicKeyInfo: %v", err)
	}
	return info.Key.Bytes
}

// encapsulates lets the token and Go's crypto/mlkem agree.
func encapsulates(t *testing.T, b backends.Backend, spec backends.KeySpec) {
	key := backends.Key{ID: randomID(), Spec: spec, Usage: backends.EncapsulateDecapsulate}
	public := created(t, b, key)
	e := b.(backends.Encapsulator)
	open := func(ciphertext []byte) ([]byte, error) {
		out, err := e.Decapsulate(t.Context(), &backends.DecapsulateRequest{Key: key, Algorithm: "ML_KEM", Ciphertext: ciphertext})
		if err != nil {
			return nil, err
		}
		return out.SharedSecret, nil
	}
	agrees := func(who string, secret, ciphertext []byte) {
		t.Helper()
		got, err := open(ciphertext)
		if err != nil || len(secret) != 32 || !bytes.Equal(got, secret) {
			t.Errorf("what %s encapsulated: %v, equal: %t", who, err, bytes.Equal(got, secret))
		}
		altered := bytes.Clone(ciphertext)
		altered[len(altered)/2] ^= 1
		if got, err := open(altered); err != nil || bytes.Equal(got, secret) {
			t.Errorf("an altered ciphertext of %s is not rejected implicitly: %v", who, err)
		}
		for _, bad := range [][]byte{nil, ciphertext[1:], append(bytes.Clone(ciphertext), 0)} {
			_, err := open(bad)
			wantCode(t, "a ciphertext of another length", err, backends.InvalidCiphertext)
		}
	}
	made, err := e.Encapsulate(t.Context(), &backends.EncapsulateRequest{Key: key, Algorithm: "ML_KEM"})
	if err != nil {
		t.Fatal(err)
	}
	agrees("the token", made.SharedSecret, made.Ciphertext)
	_, err = e.Encapsulate(t.Context(), &backends.EncapsulateRequest{Key: key, Algorithm: "RSAES_OAEP_SHA_256"})
	wantCode(t, "another algorithm", err, backends.InvalidRequest)
	switch spec {
	case backends.MLKEM768:
		k, err := mlkem.NewEncapsulationKey768(public)
		if err != nil {
			t.Fatal(err)
		}
		secret, ciphertext := k.Encapsulate()
		agrees("Go", secret, ciphertext)
	case backends.MLKEM1024:
		k, err := mlkem.NewEncapsulationKey1024(public)
		if err != nil {
			t.Fatal(err)
		}
		secret, ciphertext := k.Encapsulate()
		agrees("Go", secret, ciphertext)
	default: // Go has no ML-KEM-512
	}
}

// mlDSA verifies signatures outside of the token.
var mlDSA = map[backends.KeySpec]func(public, message, signature []byte) bool{
	backends.MLDSA44: func(public, message, signature []byte) bool {
		var k mldsa44.PublicKey
		return k.UnmarshalBinary(public) == nil && mldsa44.Verify(&k, message, nil, signature)
	},
	backends.MLDSA65: func(public, message, signature []byte) bool {
		var k mldsa65.PublicKey
		return k.UnmarshalBinary(public) == nil && mldsa65.Verify(&k, message, nil, signature)
	},
	backends.MLDSA87: func(public, message, signature []byte) bool {
		var k mldsa87.PublicKey
		return k.UnmarshalBinary(public) == nil && mldsa87.Verify(&k, message, nil, signature)
	},
}

func signsMLDSA(t *testing.T, b backends.Backend, spec backends.KeySpec, verify func(public, message, signature []byte) bool) {
	key := backends.Key{ID: randomID(), Spec: spec, Usage: backends.SignVerify}
	public, s := created(t, b, key), b.(backends.Signer)
	for _, message := range [][]byte{[]byte("m"), make([]byte, 4096)} {
		made, err := s.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: "ML_DSA_SHAKE_256", Type: backends.Raw, Message: message})
		if err != nil || !verify(public, message, made.Signature) {
			t.Fatalf("a signature of %d bytes is wrong: %v", len(message), err)
		}
		in := &backends.VerifyRequest{Key: key, Algorithm: "ML_DSA_SHAKE_256", Type: backends.Raw, Message: message, Signature: made.Signature}
		if out, err := s.Verify(t.Context(), in); err != nil || !out.Valid {
			t.Errorf("Verify: %+v, %v", out, err)
		}
		in.Signature = bytes.Clone(made.Signature)
		in.Signature[100] ^= 1
		if out, err := s.Verify(t.Context(), in); err != nil || out.Valid {
			t.Errorf("Verify of an altered signature: %+v, %v", out, err)
		}
		in.Type, in.Message = backends.ExternalMu, make([]byte, 64)
		if out, err := s.Verify(t.Context(), in); err != nil || out.Valid {
			t.Errorf("Verify of another mu: %+v, %v", out, err)
		}
		in.Message = in.Message[1:]
		_, err = s.Verify(t.Context(), in)
		wantCode(t, "mu of 63 bytes", err, backends.InvalidRequest)
	}
	_, err := s.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: "ML_DSA_SHAKE_256", Type: backends.ExternalMu, Message: make([]byte, 64)})
	wantCode(t, "an external mu", err, backends.Unsupported)
	_, err = s.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: "ML_DSA_SHAKE_256", Type: backends.Digest, Message: make([]byte, 64)})
	wantCode(t, "a digest", err, backends.InvalidRequest)
}
