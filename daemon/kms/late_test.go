package kms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// slowToken is a token in memory that goes on with creations whose process was lost. Only
// a process that was opened since sees what comes of them.
type slowToken struct {
	*renewals
	lose    int  // of how many creations from now on the process is lost
	repeats bool // the next process makes the key then: else the call fails
	unsure  int  // how many creations from now on are made by a second attempt of the backend
	full    int  // how many fail after it
	unsafe  int  // how many make an unsafe key after it
	losses  int
	gone    bool                             // the token has left the configuration
	pending map[backends.KeyID]memory.Object // what is being made still
	hidden  map[backends.KeyID]memory.Object // what has come, for the next process
}

func newSlowToken(t *testing.T) (*inMemory, *slowToken) {
	t.Helper()
	slow := &slowToken{pending: map[backends.KeyID]memory.Object{}, hidden: map[backends.KeyID]memory.Object{}}
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		slow.renewals = &renewals{Router: cfg.Router.(*memory.Router)}
		cfg.Router = slow
	})
	return s, slow
}

func (s *slowToken) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	if s.gone {
		return nil, backends.SpecInfo{}, false
	}
	_, info, ok := s.renewals.Route(token, spec)
	return s, info, ok
}

func (s *slowToken) Losses(string, backends.KeySpec) int { return s.losses }

func (s *slowToken) Renew(ctx context.Context, token string, spec backends.KeySpec) error {
	for _, o := range s.hidden {
		s.Put(o.Key, o.Label, o.Secret)
	}
	clear(s.hidden)
	return s.renewals.Renew(ctx, token, spec)
}

// come has the token finish what it was at.
func (s *slowToken) come() {
	maps.Copy(s.hidden, s.pending)
	clear(s.pending)
}

// lost has the process lost while the token makes an object, as often as it is to be. It fails unless
// the host repeats the call.
func (s *slowToken) lost(key backends.Key, label string) error {
	if s.lose == 0 {
		return nil
	}
	s.lose--
	s.losses++
	s.pending[key.ID] = memory.Object{Key: key, Label: label, Secret: make([]byte, 32)}
	if s.repeats {
		return nil
	}
	return backends.Errorf(backends.Lost, "the process was lost")
}

func (s *slowToken) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	if err := s.lost(in.Key, in.Label); err != nil {
		return nil, err
	}
	if s.unsure+s.full+s.unsafe > 0 {
		s.pending[in.Key.ID] = memory.Object{Key: in.Key, Label: in.Label, Secret: make([]byte, 32)}
	}
	if s.full > 0 {
		s.full--
		return nil, &backends.Error{Code: backends.TokenFull, Message: "no room", Unsure: true}
	}
	if s.unsafe > 0 {
		s.unsafe--
		return nil, &backends.Error{Code: backends.KeyUnsafe, Message: "it can be extracted", Unsure: true}
	}
	out, err := s.renewals.CreateKey(ctx, in)
	if err == nil && s.unsure > 0 {
		s.unsure--
		out.Unsure = true
	}
	return out, err
}

func (s *slowToken) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	if err := s.lost(in.Key, in.Label); err != nil {
		return nil, err
	}
	return s.renewals.ImportKey(ctx, in)
}

// all is what the token has, whoever sees it.
func (s *slowToken) all() int { return len(s.Objects()) + len(s.hidden) + len(s.pending) }

func (s *inMemory) intents() int { return len(slices.Collect(s.cfg.Store.View().Intents())) }

// pass has the jobs run each minute.
func (s *inMemory) pass(minutes int) {
	s.t.Helper()
	for range minutes {
		s.later += time.Minute
		if err := s.service.Reconcile(s.t.Context()); err != nil {
			s.t.Error(err)
		}
	}
}

// TestLateCreation: what comes after its call has failed does not stay, and the process is
// replaced twice for it. In the meantime nothing is held up.
func TestLateCreation(t *testing.T) {
	t.Parallel()
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []int{0, 2, 9} { // minutes in which the token is at it
		for _, name := range []string{"CreateKey", "RotateKeyOnDemand", "GetParametersForImport", "ImportKeyMaterial"} {
			s, slow := newSlowToken(t)
			id := s.newKey(nil)
			external := s.newKey(map[string]any{"Origin": "EXTERNAL"})
			rotate := func(code string) { s.call(code, "RotateKeyOnDemand", map[string]any{"KeyId": id}) }
			parameters := func(code string) map[string]any {
				return s.call(code, "GetParametersForImport", map[string]any{
					"KeyId": external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
				})
			}
			token := parameters("")["ImportToken"]
			objects := slow.all()
			slow.lose = 1
			switch name {
			case "CreateKey":
				s.call(kmsapi.CodeKeyUnavailableException, "CreateKey", map[string]any{})
			case "RotateKeyOnDemand":
				rotate(kmsapi.CodeKeyUnavailableException)
				rotate("")
				objects++
			case "GetParametersForImport":
				parameters(kmsapi.CodeKeyUnavailableException)
			case "ImportKeyMaterial":
				in := map[string]any{
					"KeyId": external, "ImportToken": token, "EncryptedKeyMaterial": sealed,
					"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
				}
				s.call(kmsapi.CodeKeyUnavailableException, "ImportKeyMaterial", in)
				s.call("", "ImportKeyMaterial", in) // the pair goes, the material comes
			}
			if n := s.intents(); n != 1 {
				t.Errorf("%s: %d intents explain what may come, want 1", name, n)
			}
			s.pass(after)
			slow.come()
			s.pass(20)
			if n, left := slow.all(), s.intents(); n != objects || left != 0 || slow.n != 2 {
				t.Errorf("%s, late by %d minutes: %d objects, want %d; %d intents are left; %d processes were opened, want 2",
					name, after, n, objects, left, slow.n)
			}
		}
	}
}

// TestLateTwin: a creation that another process has answered is made again under another
// CKA_ID, since the token may still make the first one.
func TestLateTwin(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	slow.lose, slow.repeats = 1, true
	id := s.newKey(nil)
	slow.come()
	s.pass(20)
	s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	if n, left := slow.all(), s.intents(); n != 1 || left != 0 {
		t.Errorf("%d objects are in the token, want the key's; %d intents are left", n, left)
	}
	slow.lose = 100
	s.call(kmsapi.CodeKeyUnavailableException, "CreateKey", map[string]any{})
	if slow.lose != 96 {
		t.Errorf("a creation was made %d times, want 4", 100-slow.lose)
	}
}

// TestLateUnsure: the same goes for a creation that the backend itself has tried again, after an
// answer of a lost token, whatever came of it.
func TestLateUnsure(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	slow.unsure = 1
	id := s.newKey(nil)
	slow.full = 1
	s.call(kmsapi.CodeLimitExceededException, "CreateKey", map[string]any{})
	if n := s.intents(); n != 2 {
		t.Errorf("%d intents explain what may come, want 2", n)
	}
	slow.unsafe = 1
	second := s.newKey(nil)
	if n := s.intents(); n != 3 {
		t.Errorf("%d intents explain what may come, want 3", n)
	}
	slow.come()
	s.pass(20)
	for _, id := range []string{id, second} {
		s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	}
	if n, left := slow.all(), s.intents(); n != 2 || left != 0 {
		t.Errorf("%d objects are in the token, want those of the two keys; %d intents are left", n, left)
	}
}

// TestLateBound: a full token does not fill the database with intents.
func TestLateBound(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	id := s.newKey(nil)
	const most = 1000
	slow.full = most + 1
	for range most {
		s.call(kmsapi.CodeLimitExceededException, "CreateKey", map[string]any{})
	}
	s.call(kmsapi.CodeThrottlingException, "CreateKey", map[string]any{})
	s.call(kmsapi.CodeThrottlingException, "RotateKeyOnDemand", map[string]any{"KeyId": id})
	if n := s.intents(); n != most || slow.full != 1 {
		t.Errorf("%d intents, and the token was asked %d times, want %d", n, most+1-slow.full, most)
	}
	s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	slow.full = 0
	s.pass(20)
	s.newKey(nil)
	if n := s.intents(); n != 0 {
		t.Errorf("%d intents are left", n)
	}
}

// TestLateUnrouted: the log says once that work waits for a token that the configuration does not
// have any more.
func TestLateUnrouted(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	slow.lose = 2
	for range 2 {
		s.call(kmsapi.CodeKeyUnavailableException, "CreateKey", map[string]any{})
	}
	var log bytes.Buffer
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s.service = kms.New(s.cfg)
	slow.gone = true
	s.pass(3)
	if n := strings.Count(log.String(), "left in a token that is not in the configuration"); n != 1 || s.intents() != 2 {
		t.Errorf("%d intents are left, and the log says %d times that they are:\n%s", s.intents(), n, log.String())
	}
	slow.gone = false
	s.pass(20)
	if n := s.intents(); n != 0 {
		t.Errorf("%d intents are left when the token is back", n)
	}
}

// TestLateAfterRestart: nobody knows of an intent from before a start whether its creation
// has ended.
func TestLateAfterRestart(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	slow.lose = 1
	s.call(kmsapi.CodeKeyUnavailableException, "CreateKey", map[string]any{})
	s.service = kms.New(s.cfg)
	s.pass(3)
	slow.come()
	s.pass(20)
	if n, left := slow.all(), s.intents(); n != 0 || left != 0 {
		t.Errorf("%d objects and %d intents are left", n, left)
	}
}

// TestLateProcesses: calls that fail all the time do not have the process replaced all the
// time, and each of them is looked after.
func TestLateProcesses(t *testing.T) {
	t.Parallel()
	s, slow := newSlowToken(t)
	const minutes = 30
	for range minutes {
		slow.lose = 20
		for range 20 {
			s.call(kmsapi.CodeKeyUnavailableException, "CreateKey", map[string]any{})
		}
		slow.come()
		for range 12 { // jobs that fail are run every five seconds
			s.later -= 55 * time.Second
			s.pass(1)
		}
	}
	if slow.n > minutes {
		t.Errorf("%d processes were opened in %d minutes", slow.n, minutes)
	}
	s.pass(20)
	if n, left := slow.all(), s.intents(); n != 0 || left != 0 {
		t.Errorf("%d objects and %d intents are left", n, left)
	}
}
