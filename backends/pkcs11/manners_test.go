package pkcs11_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
	"cmkd/testenv/shim"
)

// TestUnwrapsReadable: where what C_UnwrapKey makes can be read, data keys are served
// all the same, and imports take the way on which the key stays in the token.
func TestUnwrapsReadable(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		onHardware(t, tok)
		control := shimmed(t, tok)
		for name, manner := range map[string]shim.Manner{"refusing": shim.UnwrapsReadable, "forgetting": shim.UnwrapsForgetfully} {
			t.Run(name, func(t *testing.T) {
				control.Manners(manner)
				symmetric := func(k *pkcs11.Token) backends.Backend { return pkcs11.NewSymmetric(k) }
				supportsAll(t, symmetric(open(t, tok)))
				if manner == shim.UnwrapsReadable {
					backendstest.Run(t, rig(tok, symmetric))
				}
				readableImports(t, tok)
			})
		}
	})
}

// readableImports imports keys of every form by every algorithm.
func readableImports(t *testing.T, tok *testenv.Token) {
	k := open(t, tok)
	b := asymmetric(t, k)
	info, err := b.Info(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, fact := range []string{"import-oaep-sha1", "import-oaep-sha256", "import-rsa-aes-sha1", "import-rsa-aes-sha256"} {
		if info.Facts[fact] != "through the plugin" {
			t.Errorf("%s is %q", fact, info.Facts[fact])
		}
	}
	if info.Facts["unwrapped-keys-stay-in-the-token"] != "no" {
		t.Errorf("unwrapped keys stay in the token: %q", info.Facts["unwrapped-keys-stay-in-the-token"])
	}
	r := newImportRig(tok, b)
	for _, spec := range []backends.KeySpec{backends.P256, backends.RSA2048, backends.Ed25519} {
		r.imports(t, spec, backends.SignVerify, pkcs8(t, pkcs8Args[spec]...), func(t *testing.T, key backends.Key, _ []byte) {
			signVerify(t, b, key, firstAlgorithm[spec])
		})
	}
	s := newImportRig(tok, pkcs11.NewSymmetric(k))
	material := randomOf(t, 32)
	s.imports(t, backends.SymmetricDefault, backends.EncryptDecrypt, material, func(*testing.T, backends.Key, []byte) {})
	pair := s.pair(t, backends.RSA2048)
	in := s.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, "RSAES_OAEP_SHA_256", wrap(t, pair.public, "RSAES_OAEP_SHA_256", material))
	in.TokenOnly = true
	s.refused(t, "in the token only", in, backends.Unsupported)
}

// TestMissingCurve: a token that answers CKR_GENERAL_ERROR for a curve that it lacks is
// not lost.
func TestMissingCurve(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).Manners(shim.NoSecp256k1)
		k := open(t, tok)
		s := pkcs11.NewSymmetric(k)
		key, w := newKey(t, s), wrappingKey(t, s)
		pairOf := func(spec backends.KeySpec) error {
			_, err := s.GenerateDataKeyPair(t.Context(), &backends.GenerateDataKeyPairRequest{Key: key, Wrapping: w, Spec: spec, Plaintext: true})
			return err
		}
		for range badInputs {
			wantCode(t, "a data key pair on a curve that is missing", pairOf(backends.Secp256k1), backends.Unsupported)
		}
		wantCode(t, "a data key pair on another curve", pairOf(backends.P256), "")
		a := asymmetric(t, k)
		info, err := a.Info(t.Context(), nil)
		if err != nil || info.Facts["sign-ECDSA_SHA_256"] != "yes" {
			t.Errorf("without the curve the token signs with ECDSA: %q, %v", info.Facts["sign-ECDSA_SHA_256"], err)
		}
		_, err = a.CreateKey(t.Context(), newPairRequest(backends.Secp256k1))
		wantCode(t, "a key on a curve that is missing", err, backends.Unsupported)
	})
}

// TestDataKeyLengths asks for data keys of lengths that the token does not generate.
func TestDataKeyLengths(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Manners(shim.MiddlingSecrets)
		lengths := []int{1, 8, 9, 10, 32, 40, 256, 264, 1024}
		for name, derives := range map[string]bool{"derived": true, "injected": false} {
			t.Run(name, func(t *testing.T) {
				if !derives {
					control.Set("C_DeriveKey", shim.Fail(p11.CKR_MECHANISM_INVALID))
					defer control.Clear("C_DeriveKey")
				}
				s := pkcs11.NewSymmetric(open(t, tok))
				key, w := newKey(t, s), wrappingKey(t, s)
				for _, n := range lengths {
					for _, plaintext := range []bool{true, false} {
						in := &backends.GenerateDataKeyRequest{Key: key, Wrapping: w, Length: n, Plaintext: plaintext}
						made, err := s.GenerateDataKey(t.Context(), in)
						if !derives && !plaintext && (n < 10 || n > 256) {
							wantCode(t, fmt.Sprintf("%d bytes that nobody sees", n), err, backends.Unsupported)
							continue
						}
						if err != nil {
							t.Errorf("%d bytes: %v", n, err)
							continue
						}
						opened, err := s.OpenDataKey(t.Context(), &backends.OpenDataKeyRequest{Key: key, Sealed: made.Sealed, Plaintext: true})
						if err != nil || len(opened.Plaintext) != n || plaintext && !bytes.Equal(opened.Plaintext, made.Plaintext) {
							t.Errorf("%d bytes, opened again: %v", n, err)
						}
					}
				}
			})
		}
	})
}

// TestDataKeyTrouble: a token in trouble while a data key is tried has not said that it lacks keys of
// the length.
func TestDataKeyTrouble(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		control.Manners(shim.MiddlingSecrets)
		control.Set("C_DeriveKey", shim.Fail(p11.CKR_MECHANISM_INVALID))
		s := pkcs11.NewSymmetric(open(t, tok))
		in := &backends.GenerateDataKeyRequest{Key: newKey(t, s), Wrapping: wrappingKey(t, s), Length: 264, Plaintext: true}
		for rv, want := range map[uint]backends.Code{
			p11.CKR_HOST_MEMORY: backends.Busy, p11.CKR_DEVICE_ERROR: "", p11.CKR_KEY_SIZE_RANGE: backends.Unsupported,
			p11.CKR_TEMPLATE_INCONSISTENT: backends.Unsupported, p11.CKR_WRAPPED_KEY_LEN_RANGE: backends.Unsupported,
		} {
			control.SetRule("C_UnwrapKey", shim.Rule{Do: shim.Fail(rv), Times: 1})
			_, err := s.GenerateDataKey(t.Context(), in)
			wantCode(t, "a data key whose trial is "+p11.Error(rv).Error(), err, want)
		}
	})
}

// TestOtherPKCS8: a new private key that is read to be handed out is PKCS #8, whoever it is for.
func TestOtherPKCS8(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		s := pkcs11.NewSymmetric(open(t, tok))
		to := benchRecipient(t)
		to.Algorithm, to.ThroughPlugin = "RSAES_OAEP_SHA_256", true
		key, w := newKey(t, s), wrappingKey(t, s)
		for _, spec := range []backends.KeySpec{backends.P256, backends.RSA2048, backends.Ed25519} {
			for what, in := range map[string]backends.GenerateDataKeyPairRequest{
				"the caller": {Plaintext: true}, "a recipient": {Recipient: to},
			} {
				in.Key, in.Wrapping, in.Spec = key, w, spec
				control.Manners()
				_, err := s.GenerateDataKeyPair(t.Context(), &in)
				wantCode(t, fmt.Sprintf("a pair of %s for %s", spec, what), err, "")
				control.Manners(shim.ReadsOtherPKCS8)
				_, err = s.GenerateDataKeyPair(t.Context(), &in)
				wantCode(t, fmt.Sprintf("a pair of %s for %s that is not PKCS #8", spec, what), err, backends.Internal)
			}
		}
	})
}

// TestEdwardsByOID: a token that knows Ed25519 by the OID alone, and public keys without
// the OCTET STRING.
func TestEdwardsByOID(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		shimmed(t, tok).Manners(shim.EdwardsByOID)
		k := open(t, tok)
		a, s := asymmetric(t, k), pkcs11.NewSymmetric(k)
		softHSM2Specs(t, a)
		signing, _ := newPair(t, a, backends.Ed25519, backends.SignVerify)
		signVerify(t, a, signing, "ED25519_SHA_512")
		key, w := newKey(t, s), wrappingKey(t, s)
		made, err := s.GenerateDataKeyPair(t.Context(), &backends.GenerateDataKeyPairRequest{Key: key, Wrapping: w, Spec: backends.Ed25519, Plaintext: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x509.ParsePKCS8PrivateKey(made.Plaintext); err != nil {
			t.Error(err)
		}
		newImportRig(tok, a).imports(t, backends.Ed25519, backends.SignVerify, pkcs8(t, pkcs8Args[backends.Ed25519]...),
			func(t *testing.T, key backends.Key, _ []byte) { signVerify(t, a, key, "ED25519_SHA_512") })
	})
}

// TestPoorTokens: a token serves the keys that it can hold, and says what it lacks for
// the others.
func TestPoorTokens(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		hmacs := map[backends.KeySpec]string{
			backends.HMAC224: "CKM_SHA224_HMAC", backends.HMAC256: "CKM_SHA256_HMAC",
			backends.HMAC384: "CKM_SHA384_HMAC", backends.HMAC512: "CKM_SHA512_HMAC",
		}
		secrets := map[backends.KeySpec]string{backends.SymmetricDefault: "CKM_AES_GCM", backends.AES256: "CKM_AES_KEY_WRAP_KWP"}
		maps.Copy(secrets, hmacs)
		for name, c := range map[string]struct {
			manner shim.Manner
			lacks  map[backends.KeySpec]string
		}{
			"no key wrapping": {shim.NoKeyWrap, map[backends.KeySpec]string{backends.AES256: "CKM_AES_KEY_WRAP_KWP"}},
			"no HMAC":         {shim.NoHMAC, hmacs},
			"no secret keys":  {shim.NoSecretKeys, secrets},
		} {
			t.Run(name, func(t *testing.T) {
				control.Manners(c.manner)
				k := open(t, tok)
				a := asymmetric(t, k)
				softHSM2Specs(t, a)
				for _, spec := range []backends.KeySpec{backends.RSA2048, backends.P256} {
					key, _ := newPair(t, a, spec, backends.SignVerify)
					signVerify(t, a, key, firstAlgorithm[spec])
				}
				lacks := map[backends.KeySpec]string{}
				for _, b := range []backends.Backend{pkcs11.NewSymmetric(k), pkcs11.NewHMAC(k)} {
					info, err := b.Info(t.Context(), nil)
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range slices.DeleteFunc(info.Specs, func(s backends.SpecInfo) bool { return s.Unsupported == "" }) {
						lacks[s.Spec] = s.Unsupported
						_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{
							Key: backends.Key{ID: randomID(), Spec: s.Spec, Usage: s.Usages[0]}, Label: "cmkd:x:1",
						})
						wantCode(t, string(s.Spec), err, backends.Unsupported)
					}
				}
				if !maps.Equal(lacks, c.lacks) {
					t.Errorf("it lacks %v, want %v", lacks, c.lacks)
				}
			})
		}
	})
}

// TestSeparateUses: where a wrapping pair may not both unwrap and decrypt, it has the use
// that brings most in.
func TestSeparateUses(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		control := shimmed(t, tok)
		material := randomOf(t, 32)
		for name, c := range map[string]struct {
			manners []shim.Manner
			sha1    string
			sha256  backends.Code
		}{
			"it decrypts": {[]shim.Manner{shim.RefusesRisks}, "through the plugin", ""},
			"it unwraps":  {[]shim.Manner{shim.RefusesRisks, shim.RefusesSensitive}, "in the token", backends.Unsupported},
		} {
			t.Run(name, func(t *testing.T) {
				control.Manners(c.manners...)
				s := pkcs11.NewSymmetric(open(t, tok))
				info, err := s.Info(t.Context(), nil)
				if err != nil || info.Facts["import-oaep-sha1"] != c.sha1 {
					t.Errorf("an import with SHA-1 goes %q, %v", info.Facts["import-oaep-sha1"], err)
				}
				r := newImportRig(tok, s)
				pair := r.pair(t, backends.RSA2048)
				for algorithm, want := range map[backends.Algorithm]backends.Code{"RSAES_OAEP_SHA_1": "", "RSAES_OAEP_SHA_256": c.sha256} {
					in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, algorithm, wrap(t, pair.public, algorithm, material))
					_, err := s.ImportKey(t.Context(), in)
					wantCode(t, string(algorithm), err, want)
				}
			})
		}
	})
}
