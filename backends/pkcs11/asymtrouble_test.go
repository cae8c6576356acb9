package pkcs11_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"runtime"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

func newPair(t testing.TB, b backends.Backend, spec backends.KeySpec, usage backends.Usage) (backends.Key, []byte) {
	t.Helper()
	key := backends.Key{ID: randomID(), Spec: spec, Usage: usage}
	made, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:x:1"})
	if err != nil {
		t.Fatal(err)
	}
	return key, made.PublicKey
}

// TestTroubledPairs lets calls fail in ways that may or may not pass.
func TestTroubledPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		b := asymmetric(t, open(t, tok))
		rsaPair, encoded := newPair(t, b, backends.RSA2048, backends.EncryptDecrypt)
		signing, _ := newPair(t, b, backends.P256, backends.SignVerify)
		agreeing, peer := newPair(t, b, backends.P256, backends.KeyAgreement)
		public, err := x509.ParsePKIXPublicKey(encoded)
		if err != nil {
			t.Fatal(err)
		}
		decrypt := func(algorithm backends.Algorithm) error {
			sealed := encryptOAEP(t, public.(*rsa.PublicKey), algorithm, []byte("plaintext"))
			answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: rsaPair, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: sealed}})
			if err == nil && string(answer.Plaintext) != "plaintext" {
				t.Error("another plaintext comes back")
			}
			return err
		}
		calls := map[string]func() error{
			"OAEP in the token": func() error { return decrypt("RSAES_OAEP_SHA_1") },
			"OAEP here":         func() error { return decrypt("RSAES_OAEP_SHA_256") },
			"Sign": func() error {
				_, err := b.Sign(t.Context(), &backends.SignRequest{Key: signing, Algorithm: "ECDSA_SHA_256", Type: backends.Raw, Message: []byte("x")})
				return err
			},
			"Agree": func() error {
				_, err := b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: agreeing, PublicKey: peer})
				return err
			},
			"CheckKey": func() error { _, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: signing}); return err },
		}
		want := func(what string, rule shim.Rule, function, call string, code backends.Code) {
			t.Helper()
			control.SetRule(function, rule)
			wantCode(t, what, calls[call](), code)
			control.Clear(function)
		}
		for _, c := range []struct{ call, function string }{
			{"OAEP in the token", "C_DecryptInit"},
			{"OAEP in the token", "C_Decrypt"},
			{"OAEP here", "C_DecryptInit"},
			{"OAEP here", "C_Decrypt"},
			{"Sign", "C_SignInit"},
			{"Sign", "C_Sign"},
			{"Agree", "C_DeriveKey"},
			{"Agree", "C_GetAttributeValue"},
			{"CheckKey", "C_GetAttributeValue"},
		} {
			want(c.call+" when "+c.function+" fails", shim.Rule{Do: shim.Fail(p11.CKR_DEVICE_ERROR)}, c.function, c.call, backends.Lost)
			want(c.call+" when a handle is stale in "+c.function, shim.Rule{Do: shim.Fail(p11.CKR_KEY_HANDLE_INVALID), Times: 1}, c.function, c.call, "")
		}
		bad := shim.Fail(p11.CKR_GENERAL_ERROR)
		want("a good ciphertext, when C_Decrypt fails for a moment", shim.Rule{Do: bad, Times: 1}, "C_Decrypt", "OAEP in the token", "")
		want("the bare primitive fails for a moment", shim.Rule{Do: bad, Times: 1}, "C_Decrypt", "OAEP here", "")
		want("a good peer, when C_DeriveKey fails for a moment", shim.Rule{Do: bad, Times: 1}, "C_DeriveKey", "Agree", "")
		want("a good ciphertext, when C_Decrypt always fails", shim.Rule{Do: bad}, "C_Decrypt", "OAEP in the token", backends.Lost)
		want("the bare primitive always fails", shim.Rule{Do: bad}, "C_Decrypt", "OAEP here", backends.Lost)
		for name, call := range calls {
			wantCode(t, name+" afterwards", call(), "")
		}
	})
}

// TestInterruptedImport lets the calls of an import fail, some of them after
// they have done their work.
func TestInterruptedImport(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		b := asymmetric(t, open(t, tok))
		r := newImportRig(tok, b)
		pair := r.pair(t, backends.RSA2048)
		material := pkcs8(t, pkcs8Args[backends.P256]...)
		functions := []string{"C_Decrypt", "C_CreateObject", "C_UnwrapKey", "C_Sign", "C_GetAttributeValue", "C_DestroyObject"}
		for _, algorithm := range []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"} {
			for _, function := range functions {
				for skip := range uint64(4) {
					in := r.request(t, backends.P256, backends.SignVerify, pair, algorithm, wrap(t, pair.public, algorithm, material))
					control.SetRule(function, shim.Rule{Do: shim.FailAfter(p11.CKR_DEVICE_ERROR), Skip: skip, Times: 1})
					_, err := b.ImportKey(t.Context(), in)
					control.Clear(function)
					if code := backends.CodeOf(err); code == backends.UnfitMaterial || code == backends.InvalidMaterial {
						t.Errorf("%s, %s fails after %d calls: %v: the material is good", algorithm, function, skip, err)
					}
					// As after a restart, which the code Lost leads to.
					if _, err := b.ListKeys(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
					if _, err := b.ImportKey(t.Context(), in); err != nil {
						t.Errorf("%s, %s fails after %d calls: again: %v", algorithm, function, skip, err)
						continue
					}
					signVerify(t, b, in.Key, "ECDSA_SHA_256")
					if n := r.objects(t, in.Key.ID); n > 2 {
						t.Errorf("%s, %s fails after %d calls: %d objects have the CKA_ID of the pair", algorithm, function, skip, n)
					}
					if _, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: in.Key}); err != nil {
						t.Error(err)
					}
					if n := r.objects(t, in.Key.ID); n != 0 {
						t.Errorf("%s, %s fails after %d calls: %d objects are left", algorithm, function, skip, n)
					}
				}
			}
		}
	})
}

// TestHalfImport lets the process end between the two objects of a pair that is imported, of
// which the private key does not say what the public one is.
func TestHalfImport(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		for _, key := range []backends.Key{
			{Spec: backends.Ed25519, Usage: backends.SignVerify}, {Spec: backends.P256, Usage: backends.KeyAgreement},
		} {
			for skip := range uint64(4) {
				b := asymmetric(t, open(t, tok))
				r := newImportRig(tok, b)
				pair := r.pair(t, backends.RSA2048)
				in := r.request(t, key.Spec, key.Usage, pair, "RSAES_OAEP_SHA_1", wrap(t, pair.public, "RSAES_OAEP_SHA_1", pkcs8(t, pkcs8Args[key.Spec]...)))
				// Nothing is made from then on, and nothing destroyed, as after a kill.
				control.SetRule("C_CreateObject", shim.Rule{Do: shim.Fail(p11.CKR_USER_NOT_LOGGED_IN), Skip: skip})
				control.Set("C_DestroyObject", shim.Fail(p11.CKR_USER_NOT_LOGGED_IN))
				_, err := b.ImportKey(t.Context(), in)
				control.Clear("C_CreateObject")
				control.Clear("C_DestroyObject")
				left := r.objects(t, in.Key.ID)
				b = asymmetric(t, open(t, tok))
				answer, again := b.ImportKey(t.Context(), in)
				if again != nil || len(answer.PublicKey) == 0 || r.objects(t, in.Key.ID) != 2 {
					t.Errorf("%s, %d calls after which it ends (%v), %d objects in the token: again: %+v, %v", key.Spec, skip, err, left, answer, again)
					continue
				}
				if _, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: in.Key}); err != nil {
					t.Errorf("%s: %v", key.Spec, err)
				}
			}
		}
	})
}

// TestGenerationBesideCalls signs while the token never ends to generate a key.
func TestGenerationBesideCalls(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		k, err := pkcs11.Open(t.Context(), config(tok)) // ends with the process
		if err != nil {
			t.Fatal(err)
		}
		b := asymmetric(t, k)
		key, _ := newPair(t, b, backends.P256, backends.SignVerify)
		control.Set("C_GenerateKeyPair", shim.Hang)
		before := control.Calls("C_GenerateKeyPair")
		go func() {
			slow := backends.Key{ID: randomID(), Spec: backends.RSA4096, Usage: backends.SignVerify}
			_, _ = b.CreateKey(context.Background(), &backends.CreateKeyRequest{Key: slow, Label: "cmkd:x:1"})
		}()
		for control.Calls("C_GenerateKeyPair") == before {
			runtime.Gosched()
		}
		for range 20 {
			signVerify(t, b, key, "ECDSA_SHA_256")
		}
		// The next one waits for its turn, and not longer than it may.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		next := backends.Key{ID: randomID(), Spec: backends.P256, Usage: backends.SignVerify}
		_, err = b.CreateKey(ctx, &backends.CreateKeyRequest{Key: next, Label: "cmkd:x:1"})
		wantCode(t, "a second generation", err, backends.Timeout)
	})
}

// TestCloudHSMPairs runs key pairs and imports with the manners of AWS
// CloudHSM: a CKA_ID serves once per class, generic secrets refuse some
// attributes, and the token makes its IVs.
func TestCloudHSMPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).CloudHSM(true)
		k := open(t, tok)
		b := asymmetric(t, k)
		for _, kind := range []backends.Key{
			{Spec: backends.P256, Usage: backends.SignVerify}, {Spec: backends.RSA2048, Usage: backends.SignVerify}, {Spec: backends.Ed25519, Usage: backends.SignVerify},
		} {
			key, _ := newPair(t, b, kind.Spec, kind.Usage)
			signVerify(t, b, key, firstAlgorithm[kind.Spec])
		}
		agreeing, peer := newPair(t, b, backends.P384, backends.KeyAgreement)
		if _, err := b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: agreeing, PublicKey: peer}); err != nil {
			t.Error(err)
		}
		s := pkcs11.NewSymmetric(k)
		r := newImportRig(behind(tok), s)
		material := randomOf(t, 32)
		var check []byte
		for _, algorithm := range allImports {
			pair := r.pair(t, backends.RSA2048)
			in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, algorithm, wrap(t, pair.public, algorithm, material))
			for range 2 {
				answer, err := s.ImportKey(t.Context(), in)
				if err != nil {
					t.Fatalf("%s: %v", algorithm, err)
				}
				if check == nil {
					check = answer.CheckValue
				}
				if !bytes.Equal(answer.CheckValue, check) {
					t.Errorf("%s: the check value is %x, and was %x", algorithm, answer.CheckValue, check)
				}
			}
		}
	})
}

// TestFaultySignature: a signature that is none of the key does not leave, of a kind of key that it
// could give away.
func TestFaultySignature(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		b := asymmetric(t, open(t, tok))
		for spec, algorithms := range map[backends.KeySpec][]backends.Algorithm{
			backends.RSA2048: {"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"}, backends.Ed25519: {"ED25519_SHA_512"},
		} {
			key, _ := newPair(t, b, spec, backends.SignVerify)
			for _, algorithm := range algorithms {
				sign := func() error {
					_, err := b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: []byte("x")})
					return err
				}
				control.Set("C_Sign", shim.Fail(p11.CKR_OK)) // says that it did
				wantCode(t, "a faulty signature of "+string(algorithm), sign(), backends.Internal)
				control.Clear("C_Sign")
				wantCode(t, "a signature of "+string(algorithm), sign(), "")
			}
		}
	})
}
