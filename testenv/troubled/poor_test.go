package troubled

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	p11 "github.com/miekg/pkcs11"

	"cmkd/daemon"
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

// TestFailedInit: an initialisation that fails leaves no object in the token, wherever
// it fails, and the next one succeeds.
func TestFailedInit(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	initialise := func() error {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(s.Dir, "s")); err != nil {
			t.Fatal(err)
		}
		d, err := daemon.Open(t.Context(), s.Path, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer func() {
			if err := d.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		return d.Init(t.Context())
	}
	before := objects(t, s.Token)
	failing := func(what, why string) {
		t.Helper()
		if err := initialise(); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want an error with %q", what, err, why)
		}
		if n := objects(t, s.Token); n != before {
			t.Errorf("%s: %d objects are left in the token", what, n-before)
		}
	}
	s.control.Manners(shim.NoHMAC)
	failing("a token without HMAC", "it authenticates the database")
	s.control.Manners()
	s.control.RefuseObjects(p11.CKR_DEVICE_MEMORY)
	failing("a token without room", "CKR_DEVICE_MEMORY")
	s.control.RefuseObjects(p11.CKR_OK)
	for room := range uint32(3) {
		s.control.Room(room)
		failing("a token with little room", "CKR_DEVICE_MEMORY")
	}
	s.control.ClearAll()
	if err := initialise(); err != nil {
		t.Error(err)
	}
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
