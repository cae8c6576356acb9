package pkcs11_test

import (
	"bytes"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/pqhsm"
	"cmkd/testenv/shim"
)

// badInputs is how often each bad input is tried: callers do not stop after one.
const badInputs = 5

// TestBadInputs: whatever the token answers to bad input, the caller is told so, and the
// process serves on.
func TestBadInputs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		path, env := pqhsm.New(t, tok.Module)
		setenv(t, env)
		tok.Module = path
		shimmed(t, tok).Manners(shim.BadInputIsDeviceError)
		k := open(t, tok)
		a, s := asymmetric(t, k), pkcs11.NewSymmetric(k)
		for _, c := range append(badCiphertexts(t, a, s), badSignatures(t, a)...) {
			for range badInputs {
				if err := c.call(); backends.CodeOf(err) != c.want {
					t.Errorf("%s: %v, want the code %q", c.what, err, c.want)
				}
			}
		}
	})
}

// TestBigInputs: a token that takes less than AWS KMS does is not lost, whatever it answers.
func TestBigInputs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		control := shimmed(t, tok)
		control.Manners(shim.BigInputIsDeviceError)
		k := open(t, tok)
		a, s, h := asymmetric(t, k), pkcs11.NewSymmetric(k), pkcs11.NewHMAC(k)
		key, w := newKey(t, s), wrappingKey(t, s)
		mac := backends.Key{ID: randomID(), Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC}
		if _, err := h.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: mac, Label: "cmkd:m:1"}); err != nil {
			t.Fatal(err)
		}
		pair, _ := newPair(t, a, backends.Ed25519, backends.SignVerify)
		sealed, err := s.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			want backends.Code
			call func(n int) error
		}{
			"a plaintext": {backends.Unsupported, func(n int) error {
				_, err := s.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: make([]byte, n)})
				return err
			}},
			"a context": {backends.Unsupported, func(n int) error {
				_, err := s.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x"), AAD: make([]byte, n)})
				return err
			}},
			"another context": {backends.InvalidCiphertext, func(n int) error {
				in := &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: sealed.Sealed}
				if n > 1 {
					in.AAD = make([]byte, n)
				}
				_, err := s.Decrypt(t.Context(), in)
				return err
			}},
			"a message": {backends.Unsupported, func(n int) error {
				_, err := a.Sign(t.Context(), &backends.SignRequest{Key: pair, Algorithm: "ED25519_SHA_512", Type: backends.Raw, Message: make([]byte, n)})
				return err
			}},
			"a message of a MAC": {backends.Unsupported, func(n int) error {
				_, err := h.GenerateMAC(t.Context(), &backends.MACRequest{Key: mac, Algorithm: "HMAC_SHA_256", Message: make([]byte, n)})
				return err
			}},
			"random": {backends.Unsupported, func(n int) error {
				_, err := s.GenerateRandom(t.Context(), &backends.GenerateRandomRequest{Length: min(n, 1024)})
				return err
			}},
			"a data key": {backends.Unsupported, func(n int) error {
				_, err := s.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: min(n, 1024)})
				return err
			}},
		} {
			for range badInputs {
				wantCode(t, what+" of 1 byte", c.call(1), "")
				wantCode(t, what+" of 4 kB", c.call(4096), c.want)
			}
		}
		control.Set("C_GenerateKeyPair", shim.Fail(p11.CKR_DEVICE_ERROR))
		for range badInputs {
			_, err := a.CreateKey(t.Context(), &backends.CreateKeyRequest{
				Key: backends.Key{ID: randomID(), Spec: backends.RSA4096, Usage: backends.SignVerify}, Label: "cmkd:r:1",
			})
			wantCode(t, "a pair that the token does not make", err, backends.Unsupported)
			_, err = s.GenerateDataKeyPair(t.Context(), &backends.GenerateDataKeyPairRequest{Key: key, Wrapping: w, Spec: backends.P256})
			wantCode(t, "a data key pair that the token does not make", err, backends.Unsupported)
		}
		if text := limitsOf(t, s); text != "" {
			t.Errorf("it is limited: %q", text)
		}
	})
}

// TestShortDataKeys: a token that makes no short keys is not lost, whatever it answers.
func TestShortDataKeys(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		shimmed(t, tok).Manners(shim.MiddlingSecrets, shim.BigInputIsDeviceError)
		s := pkcs11.NewSymmetric(open(t, tok))
		key, w := newKey(t, s), wrappingKey(t, s)
		for range badInputs {
			_, err := s.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: 8})
			wantCode(t, "a data key of 8 bytes", err, backends.Unsupported)
		}
		_, err := s.GenerateDataKey(t.Context(), &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: 64})
		wantCode(t, "a data key of 64 bytes", err, "")
	})
}

type badCall struct {
	what string
	want backends.Code
	call func() error
}

func badCiphertexts(t *testing.T, a *pkcs11.Asymmetric, s *pkcs11.Symmetric) (all []badCall) {
	t.Helper()
	key := newKey(t, s)
	good, err := s.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	altered := backends.Sealed{IV: good.Sealed.IV, Ciphertext: bytes.Clone(good.Sealed.Ciphertext)}
	altered.Ciphertext[0] ^= 1
	all = append(all, badCall{"an altered ciphertext of AES-GCM", backends.InvalidCiphertext, func() error {
		_, err := s.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Sealed: altered})
		return err
	}})
	pair, _ := newPair(t, a, backends.RSA2048, backends.EncryptDecrypt)
	for _, algorithm := range []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"} {
		random := randomOf(t, 256)
		random[0] = 0
		all = append(all, badCall{"256 random bytes to " + string(algorithm), backends.InvalidCiphertext, func() error {
			_, err := a.Decrypt(t.Context(), &backends.DecryptRequest{Key: pair, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: random}})
			return err
		}})
	}
	return all
}

func badSignatures(t *testing.T, a *pkcs11.Asymmetric) (all []badCall) {
	t.Helper()
	algorithms := map[backends.KeySpec]backends.Algorithm{backends.MLDSA44: "ML_DSA_SHAKE_256"}
	for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P256, backends.Secp256k1, backends.Ed25519} {
		algorithms[spec] = firstAlgorithm[spec]
	}
	for spec, algorithm := range algorithms {
		key, _ := newPair(t, a, spec, backends.SignVerify)
		in := &backends.VerifyRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: []byte("message")}
		made, err := a.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: algorithm, Type: in.Type, Message: in.Message})
		if err != nil {
			t.Fatal(err)
		}
		in.Signature = made.Signature
		if out, err := a.Verify(t.Context(), in); err != nil || !out.Valid {
			t.Errorf("a good signature of %s: %+v, %v", spec, out, err)
		}
		in.Signature[len(in.Signature)/2] ^= 1
		all = append(all, badCall{"an altered signature of " + string(spec), "", func() error {
			out, err := a.Verify(t.Context(), in)
			if err == nil && out.Valid {
				t.Errorf("an altered signature of %s is valid", spec)
			}
			return err
		}})
	}
	return all
}

// wrappingKey makes a key that wraps data keys.
func wrappingKey(t *testing.T, b backends.Backend) backends.Key {
	t.Helper()
	w := backends.Key{ID: randomID(), Spec: backends.AES256, Usage: backends.WrapDataKeys}
	if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: w, Label: "cmkd:w:1"}); err != nil {
		t.Fatal(err)
	}
	return w
}
