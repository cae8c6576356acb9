package pkcs11_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// importer is a backend that imports.
type importer interface {
	backends.Backend
	backends.Importer
}

// importRig is a backend, a wrapping pair of each size, and a token.
type importRig struct {
	tok *testenv.Token
	b   importer
	// tokenOnly: nothing may pass through the plugin.
	tokenOnly bool
	mu        sync.Mutex // guards pairs
	pairs     map[backends.KeySpec]wrappingPair
}

type wrappingPair struct {
	key    backends.Key
	public *rsa.PublicKey
}

func newImportRig(tok *testenv.Token, b importer) *importRig {
	return &importRig{tok: tok, b: b, pairs: map[backends.KeySpec]wrappingPair{}}
}

func randomID() (id backends.KeyID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

func (r *importRig) pair(t testing.TB, spec backends.KeySpec) wrappingPair {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.pairs[spec]; ok {
		return p
	}
	key := backends.Key{ID: randomID(), Spec: spec, Usage: backends.UnwrapImport}
	made, err := r.b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:import:1"})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(made.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p := wrappingPair{key, public.(*rsa.PublicKey)}
	r.pairs[spec] = p
	return p
}

var oaepHash = map[backends.Algorithm]crypto.Hash{
	"RSAES_OAEP_SHA_1":         crypto.SHA1,
	"RSAES_OAEP_SHA_256":       crypto.SHA256,
	"RSA_AES_KEY_WRAP_SHA_1":   crypto.SHA1,
	"RSA_AES_KEY_WRAP_SHA_256": crypto.SHA256,
}

func wrapsTwice(a backends.Algorithm) bool { return strings.HasPrefix(string(a), "RSA_AES") }

// wrap wraps with Go.
func wrap(t testing.TB, public *rsa.PublicKey, algorithm backends.Algorithm, material []byte) []byte {
	t.Helper()
	if !wrapsTwice(algorithm) {
		return encryptOAEP(t, public, algorithm, material)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	kwp, err := subtle.NewKWP(key)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	return append(encryptOAEP(t, public, algorithm, key), wrapped...)
}

func encryptOAEP(t testing.TB, public *rsa.PublicKey, algorithm backends.Algorithm, text []byte) []byte {
	t.Helper()
	sealed, err := rsa.EncryptOAEP(oaepHash[algorithm].New(), rand.Reader, public, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// opensslWrap wraps as AWS's guide tells users to.
// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-encrypt-key-material.html
func opensslWrap(t testing.TB, public *rsa.PublicKey, algorithm backends.Algorithm, material []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	publicFile, materialFile := file("WrappingPublicKey.bin", der), file("PlaintextKeyMaterial.bin", material)
	md := map[crypto.Hash]string{crypto.SHA1: "sha1", crypto.SHA256: "sha256"}[oaepHash[algorithm]]
	encrypt := func(in string) []byte {
		out := filepath.Join(dir, "Encrypted.bin")
		openssl(t, "pkeyutl", "-encrypt", "-in", in, "-out", out, "-inkey", publicFile, "-keyform", "DER", "-pubin",
			"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:"+md, "-pkeyopt", "rsa_mgf1_md:"+md)
		return readFile(t, out)
	}
	if !wrapsTwice(algorithm) {
		return encrypt(materialFile)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	wrapped := filepath.Join(dir, "wrapped.bin")
	openssl(t, "enc", "-id-aes256-wrap-pad", "-K", hex.EncodeToString(key), "-iv", "A65959A6", "-in", materialFile, "-out", wrapped)
	return append(encrypt(file("aes-key.bin", key)), readFile(t, wrapped)...)
}

func openssl(t testing.TB, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (r *importRig) request(t testing.TB, spec backends.KeySpec, usage backends.Usage, pair wrappingPair, algorithm backends.Algorithm, wrapped []byte) *backends.ImportKeyRequest {
	t.Helper()
	key := backends.Key{ID: randomID(), Spec: spec, Usage: usage, Imported: true}
	return &backends.ImportKeyRequest{
		Key: key, Label: "cmkd:" + key.ID.String() + ":1", Wrapping: pair.key, Algorithm: algorithm, Material: wrapped,
		TokenOnly: r.tokenOnly,
	}
}

// objects counts the objects with a CKA_ID, by asking the token.
func (r *importRig) objects(t testing.TB, id backends.KeyID) int {
	t.Helper()
	ctx, s := r.tok.Objects(t)
	defer ctx.CloseSession(s)
	if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, id[:])}); err != nil {
		t.Fatal(err)
	}
	found, _, err := ctx.FindObjects(s, 10)
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// refused fails unless material is refused and leaves nothing behind.
func (r *importRig) refused(t *testing.T, name string, in *backends.ImportKeyRequest, want backends.Code) {
	t.Helper()
	_, err := r.b.ImportKey(t.Context(), in)
	if got := backends.CodeOf(err); got != want {
		t.Errorf("%s: %v, want the code %s", name, err, want)
	}
	if n := r.objects(t, in.Key.ID); n != 0 {
		t.Errorf("%s: %d objects are left in the token", name, n)
	}
}

var allImports = []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"}

// imports brings material in by every algorithm, wrapped by Go and by openssl,
// and calls use with each key. All have one check value.
func (r *importRig) imports(t *testing.T, spec backends.KeySpec, usage backends.Usage, material []byte, use func(t *testing.T, key backends.Key, public []byte)) {
	var check []byte
	for i, algorithm := range allImports {
		pair := r.pair(t, []backends.KeySpec{backends.RSA2048, backends.RSA3072}[i%2])
		if room := pair.public.Size() - 2*oaepHash[algorithm].Size() - 2; !wrapsTwice(algorithm) && len(material) > room {
			continue
		}
		for by, wrapped := range map[string][]byte{
			"Go":      wrap(t, pair.public, algorithm, material),
			"openssl": opensslWrap(t, pair.public, algorithm, material),
		} {
			t.Run(string(algorithm)+" by "+by, func(t *testing.T) {
				in := r.request(t, spec, usage, pair, algorithm, wrapped)
				answer, err := r.b.ImportKey(t.Context(), in)
				if err != nil {
					t.Fatal(err)
				}
				if check == nil {
					check = answer.CheckValue
				}
				if r.tokenOnly && answer.ThroughPlugin {
					t.Error("it went through the plugin although that was forbidden")
				}
				if len(check) != 32 || !bytes.Equal(answer.CheckValue, check) || bytes.Contains(material, check) {
					t.Errorf("the check value is %x, and was %x before", answer.CheckValue, check)
				}
				use(t, in.Key, answer.PublicKey)
				again, err := r.b.ImportKey(t.Context(), in)
				if err != nil || !bytes.Equal(again.CheckValue, check) || !bytes.Equal(again.PublicKey, answer.PublicKey) {
					t.Errorf("importing it again: %+v, %v", again, err)
				}
				if want := 1 + min(len(answer.PublicKey), 1); r.objects(t, in.Key.ID) != want {
					t.Errorf("%d objects in the token, want %d", r.objects(t, in.Key.ID), want)
				}
				checked, err := r.b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: in.Key})
				if err != nil || !bytes.Equal(checked.PublicKey, answer.PublicKey) {
					t.Errorf("checking it: %+v, %v", checked, err)
				}
				if _, err := r.b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: in.Key}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// refusals brings in what must not come in.
func (r *importRig) refusals(t *testing.T, spec backends.KeySpec, usage backends.Usage, good []byte, bad map[string][]byte) {
	for _, algorithm := range allImports {
		pair := r.pair(t, backends.RSA3072)
		request := func(wrapped []byte) *backends.ImportKeyRequest {
			return r.request(t, spec, usage, pair, algorithm, wrapped)
		}
		for name, material := range bad {
			if room := pair.public.Size() - 2*oaepHash[algorithm].Size() - 2; !wrapsTwice(algorithm) && len(material) > room {
				continue
			}
			name = fmt.Sprintf("%s, %s of %d bytes", algorithm, name, len(material))
			r.refused(t, name, request(wrap(t, pair.public, algorithm, material)), backends.InvalidMaterial)
		}
		if len(good) > 300 && !wrapsTwice(algorithm) {
			continue
		}
		wrapped := wrap(t, pair.public, algorithm, good)
		for _, at := range []int{0, 100, pair.public.Size() - 1, len(wrapped) - 1} {
			changed := bytes.Clone(wrapped)
			changed[at] ^= 1
			r.refused(t, fmt.Sprintf("%s, byte %d altered", algorithm, at), request(changed), backends.InvalidMaterial)
		}
		r.refused(t, "cut short", request(wrapped[:len(wrapped)-1]), backends.InvalidMaterial)
		r.refused(t, "one more byte", request(append(bytes.Clone(wrapped), 0)), backends.InvalidMaterial)
		r.refused(t, "nothing", request(nil), backends.InvalidMaterial)
		other := r.pair(t, backends.RSA2048)
		in := request(wrap(t, other.public, algorithm, good[:min(len(good), 100)]))
		r.refused(t, "wrapped to another pair", in, backends.InvalidMaterial)
		in = request(wrapped)
		in.Algorithm = "RSAES_PKCS1_V1_5"
		r.refused(t, "another algorithm", in, backends.InvalidRequest)
		in = request(wrapped)
		in.Wrapping.Usage = backends.SignVerify
		r.refused(t, "a pair of another usage", in, backends.InvalidRequest)
		in = request(wrapped)
		in.Wrapping.ID = randomID()
		r.refused(t, "a pair that is missing", in, backends.KeyMissing)
		in = request(wrapped)
		in.Key.Imported = false
		r.refused(t, "as a key that was not imported", in, backends.InvalidRequest)
		in = request(wrapped)
		in.TokenOnly = true
		if answer, err := r.b.ImportKey(t.Context(), in); err == nil {
			if answer.ThroughPlugin {
				t.Errorf("%s: went through the plugin although that was forbidden", algorithm)
			}
		} else if backends.CodeOf(err) != backends.Unsupported || !strings.Contains(err.Error(), "CKM_RSA_") && !strings.Contains(err.Error(), "C_UnwrapKey to CKK_") {
			t.Errorf("%s: in the token only: %v", algorithm, err)
		}
	}
}

func TestImportSymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewSymmetric(open(t, tok))
		r := newImportRig(tok, b)
		material := randomOf(t, 32)
		block, err := aes.NewCipher(material)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		r.imports(t, backends.SymmetricDefault, backends.EncryptDecrypt, material, func(t *testing.T, key backends.Key, _ []byte) {
			answer, err := b.Encrypt(t.Context(), &backends.EncryptRequest{Key: key, Algorithm: "SYMMETRIC_DEFAULT", Plaintext: []byte("text"), AAD: []byte("aad")})
			if err != nil {
				t.Fatal(err)
			}
			got, err := gcm.Open(nil, answer.Sealed.IV, answer.Sealed.Ciphertext, []byte("aad"))
			if err != nil || string(got) != "text" {
				t.Errorf("Go does not decrypt it: %v", err)
			}
		})
		bad := map[string][]byte{}
		for _, n := range []int{16, 24, 25, 31, 33, 40, 64} {
			bad[fmt.Sprint(n)] = randomOf(t, n)
		}
		r.refusals(t, backends.SymmetricDefault, backends.EncryptDecrypt, material, bad)
		in := r.request(t, backends.AES256, backends.WrapDataKeys, r.pair(t, backends.RSA3072), "RSAES_OAEP_SHA_1",
			wrap(t, r.pair(t, backends.RSA3072).public, "RSAES_OAEP_SHA_1", material))
		r.refused(t, "a data-key wrapping key", in, backends.InvalidRequest)
		t.Run("SHA-1 in the token", func(t *testing.T) {
			pair := r.pair(t, backends.RSA2048)
			in := r.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, "RSAES_OAEP_SHA_1", wrap(t, pair.public, "RSAES_OAEP_SHA_1", material))
			in.TokenOnly = true
			if answer, err := b.ImportKey(t.Context(), in); err != nil || answer.ThroughPlugin {
				t.Errorf("%+v, %v", answer, err)
			}
			other := *in
			other.Material = wrap(t, pair.public, "RSAES_OAEP_SHA_1", randomOf(t, 32))
			if _, err := b.ImportKey(t.Context(), &other); backends.CodeOf(err) != backends.InvalidRequest {
				t.Errorf("other material under the same CKA_ID: %v", err)
			}
		})
	})
}

func randomOf(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func TestImportHMAC(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b := pkcs11.NewHMAC(open(t, tok))
		r := newImportRig(tok, b)
		for spec, h := range map[backends.KeySpec]crypto.Hash{
			backends.HMAC224: crypto.SHA224, backends.HMAC256: crypto.SHA256, backends.HMAC384: crypto.SHA384, backends.HMAC512: crypto.SHA512,
		} {
			t.Run(string(spec), func(t *testing.T) {
				material := randomOf(t, h.Size())
				r.imports(t, spec, backends.GenerateVerifyMAC, material, func(t *testing.T, key backends.Key, _ []byte) {
					answer, err := b.GenerateMAC(t.Context(), &backends.MACRequest{
						Key: key, Algorithm: backends.Algorithm("HMAC_SHA_" + strings.TrimPrefix(string(spec), "HMAC_")), Message: []byte("text"),
					})
					if err != nil {
						t.Fatal(err)
					}
					mac := hmac.New(h.New, material)
					mac.Write([]byte("text"))
					if !hmac.Equal(mac.Sum(nil), answer.MAC) {
						t.Error("Go computes another HMAC")
					}
				})
				// What padding with zeros would make of shorter material.
				bad := map[string][]byte{}
				for _, n := range []int{16, h.Size() - 8, h.Size() - 4, h.Size() - 1, h.Size() + 1, h.Size() + 8} {
					bad[fmt.Sprint(n)] = randomOf(t, n)
				}
				r.refusals(t, spec, backends.GenerateVerifyMAC, material, bad)
			})
		}
	})
}

// pkcs8 is the PKCS #8 form that openssl makes of a fresh key.
func pkcs8(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	pem, der := filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.der")
	openssl(t, append(append([]string{"genpkey"}, args...), "-out", pem)...)
	openssl(t, "pkcs8", "-topk8", "-nocrypt", "-inform", "PEM", "-in", pem, "-outform", "DER", "-out", der)
	return readFile(t, der)
}

// opensslPublic is the public key of a PKCS #8 private key.
func opensslPublic(t testing.TB, private []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "key.der"), filepath.Join(dir, "public.der")
	if err := os.WriteFile(in, private, 0o600); err != nil {
		t.Fatal(err)
	}
	openssl(t, "pkey", "-inform", "DER", "-in", in, "-pubout", "-outform", "DER", "-out", out)
	return readFile(t, out)
}

var pkcs8Args = map[backends.KeySpec][]string{
	backends.RSA2048:   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	backends.RSA3072:   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"},
	backends.P256:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	backends.P384:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
	backends.P521:      {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"},
	backends.Secp256k1: {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"},
	backends.Ed25519:   {"-algorithm", "ED25519"},
}

var firstAlgorithm = map[backends.KeySpec]backends.Algorithm{
	backends.RSA2048: "RSASSA_PSS_SHA_256", backends.RSA3072: "RSASSA_PKCS1_V1_5_SHA_512", backends.P256: "ECDSA_SHA_256",
	backends.P384: "ECDSA_SHA_384", backends.P521: "ECDSA_SHA_512", backends.Secp256k1: "ECDSA_SHA_256", backends.Ed25519: "ED25519_SHA_512",
}

func TestImportAsymmetric(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		b, err := pkcs11.NewAsymmetric(t.Context(), open(t, tok))
		if err != nil {
			t.Fatal(err)
		}
		r := newImportRig(tok, b)
		material := map[backends.KeySpec][]byte{}
		for spec, args := range pkcs8Args {
			material[spec] = pkcs8(t, args...)
		}
		for spec, private := range material {
			public := opensslPublic(t, private)
			t.Run(string(spec)+"/sign", func(t *testing.T) {
				r.imports(t, spec, backends.SignVerify, private, func(t *testing.T, key backends.Key, got []byte) {
					if !bytes.Equal(got, public) {
						t.Errorf("the public key is\n%x, not\n%x", got, public)
					}
					signVerify(t, b, key, firstAlgorithm[spec])
				})
			})
		}
		t.Run("RSA_2048/decrypt", func(t *testing.T) {
			private, err := x509.ParsePKCS8PrivateKey(material[backends.RSA2048])
			if err != nil {
				t.Fatal(err)
			}
			r.imports(t, backends.RSA2048, backends.EncryptDecrypt, material[backends.RSA2048], func(t *testing.T, key backends.Key, _ []byte) {
				for _, algorithm := range []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"} {
					sealed := encryptOAEP(t, &private.(*rsa.PrivateKey).PublicKey, algorithm, []byte("text"))
					answer, err := b.Decrypt(t.Context(), &backends.DecryptRequest{Key: key, Algorithm: algorithm, Sealed: backends.Sealed{Ciphertext: sealed}})
					if err != nil || string(answer.Plaintext) != "text" {
						t.Errorf("%s: %v", algorithm, err)
					}
				}
			})
		})
		t.Run("P-384/agree", func(t *testing.T) {
			private, err := x509.ParsePKCS8PrivateKey(material[backends.P384])
			if err != nil {
				t.Fatal(err)
			}
			ours, err := private.(*ecdsa.PrivateKey).ECDH()
			if err != nil {
				t.Fatal(err)
			}
			r.imports(t, backends.P384, backends.KeyAgreement, material[backends.P384], func(t *testing.T, key backends.Key, public []byte) {
				if !bytes.Equal(public, opensslPublic(t, material[backends.P384])) {
					t.Error("the public key is another's")
				}
				peer, err := ecdh.P384().GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				want, err := ours.ECDH(peer.PublicKey())
				if err != nil {
					t.Fatal(err)
				}
				der, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
				if err != nil {
					t.Fatal(err)
				}
				answer, err := b.DeriveSharedSecret(t.Context(), &backends.DeriveSharedSecretRequest{Key: key, PublicKey: der})
				if err != nil || !bytes.Equal(answer.SharedSecret, want) {
					t.Errorf("Go agrees on another secret: %v", err)
				}
			})
		})
		r.asymmetricRefusals(t, material)
	})
}

func (r *importRig) asymmetricRefusals(t *testing.T, material map[backends.KeySpec][]byte) {
	zero := sec1(t, elliptic.P256(), make([]byte, 32))
	order := sec1(t, elliptic.P256(), elliptic.P256().Params().N.Bytes())
	p256 := material[backends.P256]
	bad := map[string][]byte{
		"another curve":           material[backends.P384],
		"secp256k1":               material[backends.Secp256k1],
		"an Ed25519 key":          material[backends.Ed25519],
		"an RSA key":              material[backends.RSA2048],
		"not DER":                 randomOf(t, 138),
		"cut DER":                 p256[:len(p256)-20],
		"a private number of 0":   zero,
		"a private number of n":   order,
		"a public key":            opensslPublic(t, p256),
		"an empty sequence":       append([]byte{0x30, 0}, make([]byte, 14)...),
		"another sequence":        append([]byte{0x30, 14}, randomOf(t, 14)...),
		"only a raw number":       randomOf(t, 32),
		"the traditional form":    traditional(t, p256),
		"an explicit other curve": bytes.Replace(p256, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1}, -1),
	}
	t.Run("P-256/refusals", func(t *testing.T) { r.refusals(t, backends.P256, backends.SignVerify, p256, bad) })
	t.Run("P-256/agree/refusals", func(t *testing.T) { r.refusals(t, backends.P256, backends.KeyAgreement, p256, bad) })
	delete(bad, "an Ed25519 key")
	bad["P-256"] = p256
	t.Run("Ed25519/refusals", func(t *testing.T) {
		r.refusals(t, backends.Ed25519, backends.SignVerify, material[backends.Ed25519], bad)
	})
	delete(bad, "an RSA key")
	bad["another size"] = material[backends.RSA3072]
	bad["wrong exponents"] = damaged(t, material[backends.RSA2048])
	for _, usage := range []backends.Usage{backends.SignVerify, backends.EncryptDecrypt} {
		t.Run("RSA_2048/refusals/"+string(usage), func(t *testing.T) {
			r.refusals(t, backends.RSA2048, usage, material[backends.RSA2048], bad)
		})
	}
}

// sec1 is a PKCS #8 form of a private number that need not be one.
func sec1(t testing.TB, curve elliptic.Curve, number []byte) []byte {
	t.Helper()
	good, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(good)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := good.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(der, raw, number, 1)
}

func traditional(t testing.TB, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// damaged is an RSA key whose private exponents are not those of its modulus.
func damaged(t testing.TB, der []byte) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	k := key.(*rsa.PrivateKey)
	out := bytes.Clone(der)
	for _, n := range []*big.Int{k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv} {
		at := bytes.Index(out, n.Bytes())
		out[at+len(n.Bytes())/2] ^= 1
	}
	return out
}

func signVerify(t *testing.T, b backends.Signer, key backends.Key, algorithm backends.Algorithm) {
	t.Helper()
	message := []byte("a message")
	signed, err := b.Sign(t.Context(), &backends.SignRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: message})
	if err != nil {
		t.Fatal(err)
	}
	verified, err := b.Verify(t.Context(), &backends.VerifyRequest{Key: key, Algorithm: algorithm, Type: backends.Raw, Message: message, Signature: signed.Signature})
	if err != nil || !verified.Valid {
		t.Errorf("its signature does not verify: %v", err)
	}
}
