package pkcs11_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/backendstest"
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

var importHash = map[backends.Algorithm]crypto.Hash{
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
	sealed, err := rsa.EncryptOAEP(importHash[algorithm].New(), rand.Reader, public, text, nil)
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
	der := backendstest.PublicDER(t, public)
	file := func(name string, content []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	publicFile, materialFile := file("WrappingPublicKey.bin", der), file("PlaintextKeyMaterial.bin", material)
	md := map[crypto.Hash]string{crypto.SHA1: "sha1", crypto.SHA256: "sha256"}[importHash[algorithm]]
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
		if room := pair.public.Size() - 2*importHash[algorithm].Size() - 2; !wrapsTwice(algorithm) && len(material) > room {
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
			if room := pair.public.Size() - 2*importHash[algorithm].Size() - 2; !wrapsTwice(algorithm) && len(material) > room {
				continue
			}
			name = fmt.Sprintf("%s, %s of %d bytes", algorithm, name, len(material))
			r.refused(t, name, request(wrap(t, pair.public, algorithm, material)), backends.UnfitMaterial)
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
