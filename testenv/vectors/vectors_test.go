// Package vectors tests the plugins with the vectors of Project Wycheproof
// (C2SP/wycheproof, Apache-2.0), which were made to catch the mistakes of
// cryptographic libraries. Every vector goes through a real plugin process to a
// real token: keys come in as imported material.
package vectors

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/c2sp/wycheproof"
	"github.com/go-json-experiment/json"

	"cmkd/backends"
	"cmkd/plugins"
	"cmkd/testenv"
)

// tally counts what became of vectors.
type tally struct {
	right, refused, wrong int
	reasons               map[string]int
}

func (c *tally) refuse(reason string) {
	c.refused++
	if c.reasons == nil {
		c.reasons = map[string]int{}
	}
	c.reasons[reason]++
}

// file is a file of vectors, as far as it is used.
type file struct {
	Groups []group `json:"testGroups"`
}

type group struct {
	KeySize, IvSize, TagSize int
	Sha, MgfSha              string
	SLen                     int
	PublicKeyDer             hexBytes
	PrivateKeyPkcs8          hexBytes
	Tests                    []vector
}

type vector struct {
	TcID                       int `json:"tcId"`
	Comment                    string
	Key, IV, AAD, Msg, Ct, Tag hexBytes
	Sig, Public, Shared, Label hexBytes
	Private                    string
	Result                     string
}

type hexBytes []byte

func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.AppendDecode(nil, text)
	return err
}

// load reads a file of vectors.
func load(t testing.TB, name string) *file {
	t.Helper()
	r, err := wycheproof.TestVectors.Open(name + "_test.json")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f := &file{}
	if err := json.UnmarshalRead(r, f, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// buildDir is a folder that TestMain makes and removes.
var buildDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cmkd-vectors-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

// built is the folder with the plugins' executables, made once.
var built = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "build", "-o", buildDir, "cmkd/plugins/symmetric", "cmkd/plugins/asymmetric", "cmkd/plugins/hmac").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return buildDir, nil
})

// rig is a plugin on a token of its own, and a pair for imports.
type rig struct {
	*plugins.Host
	spec     plugins.Spec
	wrapping backends.Key
	public   *rsa.PublicKey
	tally
}

// start starts the plugin.
func start(t *testing.T, plugin string, tok *testenv.Token) *rig {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatalf("building the plugins: %v", err)
	}
	env := map[string]string{}
	for _, e := range tok.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	sockets, err := os.MkdirTemp("", "cmkd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	spec := plugins.Spec{
		Name: "vectors/" + plugin, Path: filepath.Join(dir, plugin), Dir: sockets, Env: env,
		Config: plugins.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile},
		// A lost process is an error here; one that waits for a processor is none.
		HeartbeatTimeout: time.Minute,
	}
	host, err := plugins.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close(context.Background()) })
	if err := host.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &rig{Host: host, spec: spec, wrapping: backends.Key{ID: newID(), Spec: backends.RSA2048, Usage: backends.UnwrapImport}}
	made, err := r.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: r.wrapping, Label: "cmkd:import:1"})
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(made.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	r.public = public.(*rsa.PublicKey)
	return r
}

func newID() (id backends.KeyID) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id
}

// load imports material that an AES key wraps: kek opens wrapped.
func (r *rig) load(t *testing.T, spec backends.KeySpec, usage backends.Usage, kek, wrapped []byte) (backends.Key, error) {
	t.Helper()
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, r.public, kek, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := backends.Key{ID: newID(), Spec: spec, Usage: usage, Imported: true}
	_, err = r.ImportKey(t.Context(), &backends.ImportKeyRequest{
		Key: key, Label: "cmkd:vector-" + key.ID.String() + ":1", Wrapping: r.wrapping,
		Algorithm: "RSA_AES_KEY_WRAP_SHA_1", Material: append(sealed, wrapped...),
	})
	return key, err
}

// imported imports material, which must work.
func (r *rig) imported(t *testing.T, spec backends.KeySpec, usage backends.Usage, material []byte) backends.Key {
	t.Helper()
	kek := make([]byte, 32)
	_, _ = rand.Read(kek) // never fails: crypto/rand
	key, err := r.load(t, spec, usage, kek, wrap(t, kek, material))
	if err != nil {
		t.Fatalf("importing a key of spec %s: %v", spec, err)
	}
	return key
}

// drop destroys a key: a token of thousands is slow.
func (r *rig) drop(t *testing.T, key backends.Key) {
	t.Helper()
	if _, err := r.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
}

// report prints the counts and holds that no answer was wrong, that as many
// were right as were once, and that no process was lost.
func (r *rig) report(t *testing.T, atLeast int) {
	t.Helper()
	t.Logf("%d right, %d refused %v, %d wrong", r.right, r.refused, r.reasons, r.wrong)
	if r.wrong > 0 {
		t.Errorf("%d wrong answers", r.wrong)
	}
	if r.right < atLeast {
		t.Errorf("%d right answers, want at least %d: have vectors been left out?", r.right, atLeast)
	}
	if n := r.Status().Restarts; n > 0 {
		t.Errorf("the vectors cost %d plugin processes", n)
	}
}

// judge counts one answer: ok says whether the vector was accepted with the
// right result.
func (r *rig) judge(t *testing.T, name string, v *vector, ok bool, err error) {
	t.Helper()
	switch {
	case v.Result == "valid" && ok, v.Result == "invalid" && !ok, v.Result == "acceptable":
		r.right++
	default:
		r.wrong++
		t.Errorf("%s %d (%s) is %s: accepted %t, %v", name, v.TcID, v.Comment, v.Result, ok, err)
	}
}

// fail counts an error that is not the answer to any vector, valid or not.
func (r *rig) fail(t *testing.T, name string, v *vector, err error) {
	t.Helper()
	r.wrong++
	t.Errorf("%s %d (%s) is %s: %v", name, v.TcID, v.Comment, v.Result, err)
}
