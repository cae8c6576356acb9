package troubled

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// TestTokenWithoutKeyWrapping: what needs no data keys is served, and the rest says what
// the token lacks.
func TestTokenWithoutKeyWrapping(t *testing.T) {
	t.Parallel()
	m := shim.New(t, testenv.Module(t))
	m.Control.Manners(shim.NoKeyWrap)
	r := rig.New(t, rig.Config{Module: m.Path, Env: environment(m), PlaintextDataKeys: true})
	s := &scene{r, r.Client(""), m.Control}
	ctx := t.Context()
	id := s.key(t, kms.CreateKeyInput{})
	if got := answer(errOf(s.encrypt(ctx, id))); got != "200" {
		t.Errorf("Encrypt: %s", got)
	}
	signing := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	if got := answer(errOf(s.Sign(ctx, &kms.SignInput{KeyId: signing, Message: []byte("m"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}))); got != "200" {
		t.Errorf("Sign: %s", got)
	}
	for range 5 {
		_, err := s.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: id, KeySpec: types.DataKeySpecAes256})
		if got := answer(err); got != "400 UnsupportedOperationException" || !strings.Contains(err.Error(), "CKM_AES_KEY_WRAP_KWP") {
			t.Errorf("GenerateDataKey: %v", err)
		}
	}
	s.until(t, http.StatusOK, "CKM_AES_KEY_WRAP_KWP")
	if n := s.restarts(t); n != 0 {
		t.Errorf("%d plugins were replaced", n)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	if got := answer(errOf(s.encrypt(ctx, id))); got != "200" {
		t.Errorf("Encrypt after a restart: %s", got)
	}
}

// environment is what a process that loads the shim must have.
func environment(m *shim.Module) map[string]string {
	env := map[string]string{}
	for _, e := range m.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	return env
}

// TestShortLabels: a token that takes short labels of few characters gets such, and says
// by them what its keys are when the database is lost.
func TestShortLabels(t *testing.T) {
	t.Parallel()
	m := shim.New(t, testenv.Module(t))
	m.Control.Manners(shim.ShortLabels)
	r := rig.New(t, rig.Config{Module: m.Path, Env: environment(m)})
	s := &scene{r, r.Client(""), m.Control}
	id := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Start(t) // which finds its keys by their labels
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(s.Dir, "s")); err != nil {
		t.Fatal(err)
	}
	s.Initialise(t)
	s.Start(t)
	if status, answer := s.Ask(t, http.MethodPost, "/recover", `{"adopt":true}`); status != http.StatusOK || !strings.Contains(answer, *id) {
		t.Errorf("the key is not found: %d %s", status, answer)
	}
}

// TestFailedInit: an initialisation that fails leaves no object in the token and no file
// in the state folder, wherever it fails, and the next one succeeds.
func TestFailedInit(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(s.Dir, "s")
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	before := objects(t, s.Token)
	failing := func(what, why string) {
		t.Helper()
		if err := s.TryInitialise(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want an error with %q", what, err, why)
		}
		if n := objects(t, s.Token); n != before {
			t.Errorf("%s: %d objects are left in the token", what, n-before)
		}
	}
	gone := func(what string) {
		t.Helper()
		if _, err := os.Lstat(state); !errors.Is(err, fs.ErrNotExist) {
			entries, _ := os.ReadDir(state)
			t.Errorf("%s: the state folder is left, with %v", what, entries)
		}
	}
	s.control.Manners(shim.NoHMAC)
	failing("a token without HMAC", "it authenticates the database")
	gone("a token without HMAC")
	s.control.Manners(shim.ReadsSecretKeys)
	failing("a token that is not safe", "KeyUnsafe")
	gone("a token that is not safe")
	s.control.Manners(shim.CutLabels)
	failing("a token that cuts labels", "CKA_LABEL of 38 capital letters and digits")
	gone("a token that cuts labels")
	s.control.Manners()
	s.control.RefuseObjects(p11.CKR_DEVICE_MEMORY)
	failing("a token without room", "CKR_DEVICE_MEMORY")
	gone("a token without room")
	s.control.RefuseObjects(p11.CKR_OK)
	for room := range uint32(3) {
		s.control.Room(room)
		failing("a token with little room", "CKR_DEVICE_MEMORY")
		gone("a token with little room")
	}
	s.control.ClearAll()

	// Files that were there stay: an audit trail whose database is lost, and others.
	if err := errors.Join(os.MkdirAll(filepath.Join(state, "audit"), 0o700),
		os.WriteFile(filepath.Join(state, "audit", "1.jsonl"), nil, 0o600), os.WriteFile(filepath.Join(state, "mine"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.control.RefuseObjects(p11.CKR_DEVICE_MEMORY)
	failing("a folder that was there", "CKR_DEVICE_MEMORY")
	if left := names(t, state); !slices.Equal(left, []string{"audit", "mine"}) {
		t.Errorf("in a folder that had an audit trail and a file, %q are left", left)
	}
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}

	// What it cannot take out of the token it remembers, and the next one says so: rows
	// that nothing authenticates destroy nothing.
	s.control.RefuseObjects(p11.CKR_OK)
	s.control.Room(1)
	s.control.Set("C_DestroyObject", shim.Fail(p11.CKR_FUNCTION_FAILED))
	if err := s.TryInitialise(t.Context()); err == nil {
		t.Error("a token with little room is initialised")
	}
	if left := names(t, state); !slices.Contains(left, "cmkd.db") {
		t.Errorf("an object is left in the token, and %q in the folder", left)
	}
	s.control.ClearAll()
	s.Initialise(t)
	if !strings.Contains(s.Log(), "an object may be left in the token") {
		t.Error("nothing is said of the object that is left in the token")
	}
	s.Start(t)
}

// names are what is in a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// objects counts the files of objects in the token.
func objects(t *testing.T, tok *testenv.Token) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(tok.ConfFile), "tokens", "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
