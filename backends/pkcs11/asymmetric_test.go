package pkcs11_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

var (
	_ backends.Backend      = (*pkcs11.Asymmetric)(nil)
	_ backends.Cipher       = (*pkcs11.Asymmetric)(nil)
	_ backends.Signer       = (*pkcs11.Asymmetric)(nil)
	_ backends.Agreer       = (*pkcs11.Asymmetric)(nil)
	_ backends.Importer     = (*pkcs11.Asymmetric)(nil)
	_ backends.Encapsulator = (*pkcs11.Asymmetric)(nil)
	_ backends.Importer     = (*pkcs11.Symmetric)(nil)
	_ backends.Importer     = (*pkcs11.HMAC)(nil)
)

func asymmetric(t testing.TB, k *pkcs11.Token) *pkcs11.Asymmetric {
	t.Helper()
	b, err := pkcs11.NewAsymmetric(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAsymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		softHSM2Specs(t, asymmetric(t, open(t, tok)))
		backendstest.Run(t, rig(tok, func(k *pkcs11.Token) backends.Backend { return asymmetric(t, k) }))
	})
}

// softHSM2Specs: SoftHSM2 2.6 can do all key pairs but those of PKCS#11 3.2.
func softHSM2Specs(t *testing.T, b backends.Backend) {
	t.Helper()
	info, err := b.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range info.Specs {
		want := ""
		switch {
		case strings.HasPrefix(string(spec.Spec), "ML_DSA"):
			want = "CKM_ML_DSA_KEY_PAIR_GEN"
		case strings.HasPrefix(string(spec.Spec), "ML_KEM"):
			want = "CKM_ML_KEM_KEY_PAIR_GEN"
		}
		if spec.Unsupported != want || len(spec.Usages) == 0 {
			t.Errorf("%+v; probing found %v", spec, info.Facts)
		}
		if want != "" {
			for _, usage := range spec.Usages {
				key := backends.Key{ID: randomID(), Spec: spec.Spec, Usage: usage}
				_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:x:1"})
				wantCode(t, "creating a key of spec "+string(spec.Spec), err, backends.Unsupported)
			}
		}
	}
	key := backends.Key{ID: randomID(), Spec: backends.MLKEM768, Usage: backends.EncapsulateDecapsulate}
	_, err = b.(backends.Encapsulator).Encapsulate(t.Context(), &backends.EncapsulateRequest{Key: key})
	wantCode(t, "encapsulating", err, backends.Unsupported)
	_, err = b.(backends.Encapsulator).Decapsulate(t.Context(), &backends.DecapsulateRequest{Key: key})
	wantCode(t, "decapsulating", err, backends.Unsupported)
}

// TestOpenSSLVerifies has signatures verified by openssl.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := asymmetric(t, open(t, tok))
		message := []byte("a message for openssl")
		for spec, cases := range map[backends.KeySpec]map[backends.Algorithm][]string{
			backends.RSA2048: {
				"RSASSA_PKCS1_V1_5_SHA_256": {"-rawin", "-digest", "sha256"},
				"RSASSA_PKCS1_V1_5_SHA_512": {"-rawin", "-digest", "sha512"},
				"RSASSA_PSS_SHA_256":        {"-rawin", "-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"},
				"RSASSA_PSS_SHA_384":        {"-rawin", "-digest", "sha384", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"},
				"RSASSA_PSS_SHA_512":        {"-rawin", "-digest", "sha512", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"},
			},
			backends.P256:      {"ECDSA_SHA_256": {"-rawin", "-digest", "sha256"}},
			backends.P384:      {"ECDSA_SHA_384": {"-rawin", "-digest", "sha384"}},
			backends.P521:      {"ECDSA_SHA_512": {"-rawin", "-digest", "sha512"}},
			backends.Secp256k1: {"ECDSA_SHA_256": {"-rawin", "-digest", "sha256"}},
			backends.Ed25519:   {"ED25519_SHA_512": {"-rawin"}},
		} {
			key := backends.Key{ID: randomID(), Spec: spec, Usage: backends.SignVerify}
			made, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:x:1"})
			if err != nil {
				t.Fatal(err)
			}
			for algorithm, args := range cases {
				signed, err := b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: message})
				if err != nil {
					t.Fatal(err)
				}
				opensslVerify(t, string(algorithm), made.PublicKey, message, signed.Signature, args)
			}
		}
	})
}

func opensslVerify(t *testing.T, name string, public, message, signature []byte, args []string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	args = append([]string{
		"pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", file("public.der", public),
		"-in", file("message", message), "-sigfile", file("signature", signature),
	}, args...)
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: openssl does not verify: %v\n%s", name, err, out)
	}
}

// TestPublicKeys takes public key objects away, doubles and swaps them.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := asymmetric(t, open(t, tok))
		public := func(key backends.Key) ([]byte, error) {
			fresh := asymmetric(t, open(t, tok))
			answer, err := fresh.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
			if err != nil {
				return nil, err
			}
			return answer.PublicKey, nil
		}
		for _, kind := range []backends.Key{
			{Spec: backends.P256, Usage: backends.SignVerify},
			{Spec: backends.P384, Usage: backends.SignVerify},
			{Spec: backends.P521, Usage: backends.SignVerify},
			{Spec: backends.Secp256k1, Usage: backends.SignVerify},
			{Spec: backends.RSA2048, Usage: backends.EncryptDecrypt},
		} {
			kind.ID = randomID()
			made, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: kind, Label: "cmkd:x:1"})
			if err != nil {
				t.Fatal(err)
			}
			destroyPublic(t, tok, kind.ID)
			got, err := public(kind)
			if err != nil || !bytes.Equal(got, made.PublicKey) {
				t.Errorf("%s: without its object the public key is %x, %v; want %x", kind.Spec, got, err, made.PublicKey)
			}
		}
		for _, kind := range []backends.Key{
			{Spec: backends.P256, Usage: backends.KeyAgreement}, {Spec: backends.Ed25519, Usage: backends.SignVerify},
		} {
			kind.ID = randomID()
			if _, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: kind, Label: "cmkd:x:1"}); err != nil {
				t.Fatal(err)
			}
			destroyPublic(t, tok, kind.ID)
			_, err := public(kind)
			wantCode(t, string(kind.Spec)+" without its public key object", err, backends.KeyMissing)
			if kind.Usage == backends.SignVerify { // nothing to verify the signature by
				_, err := asymmetric(t, open(t, tok)).Sign(t.Context(), &backends.SignRequest{Key: kind, Algorithm: "ED25519_SHA_512", Message: []byte("text"), Type: backends.Raw})
				wantCode(t, "a signature of it", err, backends.KeyMissing)
			}
		}
		key := backends.Key{ID: randomID(), Spec: backends.P256, Usage: backends.SignVerify, Imported: true}
		want, err := x509.MarshalPKIXPublicKey(planted(t, tok, key))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := public(key); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the public key of a private key alone is %x, %v; want %x", got, err, want)
		}
	})
}

func destroyPublic(t testing.TB, tok *testenv.Token, id backends.KeyID) {
	t.Helper()
	ctx, s := tok.Objects(t)
	err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, id[:]), p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY)})
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := ctx.FindObjects(s, 10)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d public keys, %v", len(found), err)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	if err := ctx.DestroyObject(s, found[0]); err != nil {
		t.Fatal(err)
	}
}

// TestHalfPair creates a key whose creation was interrupted when the token had
// made only the public key.
func TestHalfPair(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		k := open(t, tok) // initialises the module
		key := backends.Key{ID: randomID(), Spec: backends.P256, Usage: backends.SignVerify}
		ctx, s := tok.Objects(t)
		if _, err := ctx.CreateObject(s, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
			p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, key.ID[:]),
			p11.NewAttribute(p11.CKA_EC_PARAMS, p256),
			p11.NewAttribute(p11.CKA_EC_POINT, append([]byte{4, 65, 4}, make([]byte, 64)...)),
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := k.ListKeys(t.Context(), nil); err != nil { // as a restart does
			t.Fatal(err)
		}
		b := asymmetric(t, k)
		made, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:x:1"})
		if err != nil || made.Existed {
			t.Fatalf("%+v, %v", made, err)
		}
		signVerify(t, b, key, "ECDSA_SHA_256")
		destroyed, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
		if err != nil || destroyed.Objects != 2 {
			t.Errorf("destroying it: %+v, %v", destroyed, err)
		}
	})
}

// TestWrappingPairs makes wrapping pairs in the backends of secret keys, which
// do not announce them.
func TestWrappingPairs(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		k := open(t, tok)
		for name, b := range map[string]importer{"symmetric": pkcs11.NewSymmetric(k), "HMAC": pkcs11.NewHMAC(k), "asymmetric": asymmetric(t, k)} {
			info, err := b.Info(t.Context(), &backends.InfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range info.Specs {
				for _, usage := range spec.Usages {
					if usage == backends.UnwrapImport {
						t.Errorf("%s: announces wrapping pairs", name)
					}
				}
			}
			for spec, bits := range map[backends.KeySpec]int{backends.RSA2048: 2048, backends.RSA3072: 3072, backends.RSA4096: 4096} {
				r := newImportRig(tok, b)
				pair := r.pair(t, spec)
				if pair.public.N.BitLen() != bits {
					t.Errorf("%s: a pair of %d bits", name, pair.public.N.BitLen())
				}
				again, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: pair.key, Label: "cmkd:import:1"})
				if err != nil || !again.Existed {
					t.Errorf("%s: again: %+v, %v", name, again, err)
				}
				if destroyed, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: pair.key}); err != nil || destroyed.Objects != 2 {
					t.Errorf("%s: destroying: %+v, %v", name, destroyed, err)
				}
			}
			_, err = b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: randomID(), Spec: backends.P256, Usage: backends.UnwrapImport}})
			wantCode(t, name+": a wrapping pair on P-256", err, backends.InvalidRequest)
		}
		sum := sha256.Sum256(nil)
		s := pkcs11.NewSymmetric(k)
		_, err := s.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: backends.Key{ID: backends.KeyID(sum[:16]), Spec: backends.RSA2048, Usage: backends.SignVerify}})
		wantCode(t, "a signing key in the symmetric backend", err, backends.InvalidRequest)
	})
}
