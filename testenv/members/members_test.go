package members

import (
	"context"
	"errors"
	"strings"
	stdsync "sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// crowd is how many make calls at a time.
const crowd = 64

// work are calls by many callers with keys of all kinds, until it is stopped.
type work struct {
	made    atomic.Int64
	failed  atomic.Pointer[string] // the first error
	working stdsync.WaitGroup
	stop    context.CancelFunc
}

// begin makes the keys and starts the callers.
func (s *scene) begin(t *testing.T) *work {
	t.Helper()
	aes := rig.NewKey(t, s.Client, &kms.CreateKeyInput{})
	mac := rig.NewKey(t, s.Client, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	ec := rig.NewKey(t, s.Client, &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	blob := s.encrypt(t, aes)
	message := []byte("message")
	calls := []func(context.Context) error{
		func(ctx context.Context) error {
			return rig.ErrOf(s.Encrypt(ctx, &kms.EncryptInput{KeyId: &aes, Plaintext: message}))
		},
		func(ctx context.Context) error {
			return rig.ErrOf(s.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob}))
		},
		func(ctx context.Context) error {
			return rig.ErrOf(s.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &mac, Message: message, MacAlgorithm: types.MacAlgorithmSpecHmacSha256}))
		},
		func(ctx context.Context) error {
			return rig.ErrOf(s.Sign(ctx, &kms.SignInput{KeyId: &ec, Message: message, SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}))
		},
		func(ctx context.Context) error {
			return rig.ErrOf(s.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: &aes, KeySpec: types.DataKeySpecAes256}))
		},
	}
	w := &work{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	w.stop = cancel
	for i := range crowd {
		w.working.Go(func() {
			for ctx.Err() == nil {
				if err := calls[i%len(calls)](ctx); err != nil && !errors.Is(err, context.Canceled) {
					text := err.Error()
					w.failed.CompareAndSwap(nil, &text)
				}
				w.made.Add(1)
			}
		})
	}
	t.Cleanup(w.end)
	return w
}

// more waits until so many more calls have come to an end.
func (w *work) more(t *testing.T, n int64) {
	t.Helper()
	until := w.made.Load() + n
	eventually(t, func() (bool, string) { return w.made.Load() >= until, "no more calls are made" })
}

func (w *work) end() {
	w.stop()
	w.working.Wait()
}

// check fails if a call has failed.
func (w *work) check(t *testing.T, when string) {
	t.Helper()
	if text := w.failed.Load(); text != nil {
		t.Fatalf("%s, after %d calls: %s", when, w.made.Load(), *text)
	}
}

// TestMemberLost loses the members in turn under the calls of many: by their processes, and
// with their token. No caller gets an error, and each takes calls again when it is
// back.
func TestMemberLost(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	a, b := newMember(t, "a", tokensOf(tok)), newMember(t, "b", tokensOf(tok))
	s := prepare(t, rig.Config{Token: tok}, a, b)
	s.Initialise(t)
	s.Start(t)
	s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
	w := s.begin(t)
	key := rig.NewKey(t, s.Client, &kms.CreateKeyInput{})
	s.awaitUse(t, key, a, b)
	for _, m := range []*member{a, b} {
		for _, p := range s.health(t).Plugins {
			if p.Member == m.name && p.PID != 0 {
				if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.more(t, 10*crowd)
		w.check(t, "the processes of member "+m.name+" were killed")
		s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
		s.awaitUse(t, key, a, b)

		m.Away(true)
		s.awaitStates(t, map[string]string{"": "degraded", "a": state(m != a), "b": state(m != b)})
		w.more(t, 10*crowd)
		w.check(t, "the token of member "+m.name+" was away")
		made := rig.NewKey(t, s.Client, &kms.CreateKeyInput{})
		m.Away(false)
		s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
		s.awaitUse(t, made, a, b)
		w.check(t, "the token of member "+m.name+" was back")
	}
}

func state(ok bool) string {
	if ok {
		return "ok"
	}
	return "unavailable"
}

// TestImpostor puts a token in the place of a member that has the same label and PIN, and
// other keys. It gets no call until the clone is in its place.
func TestImpostor(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	other := testenv.NewTokenLabelled(t, tok.Label)
	clone := rig.Dir(t)
	sync(t, tokensOf(other), clone)
	a, b := newMember(t, "a", tokensOf(tok)), newMember(t, "b", clone)
	s := prepare(t, rig.Config{Token: tok}, a, b)
	s.Initialise(t)
	s.Start(t)
	s.awaitStates(t, map[string]string{"": "degraded", "a": "ok", "b": "refused"})
	if text := s.Log(); !strings.Contains(text, "the token is refused") || !strings.Contains(text, "not a clone of the token") {
		t.Error("the log does not say that member b is refused, and why")
	}
	key := rig.NewKey(t, s.Client, &kms.CreateKeyInput{})
	s.awaitPause(t, b, func() {
		for range 10 {
			s.encrypt(t, key)
		}
	})
	sync(t, a.tokens, b.tokens)
	s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
	s.awaitUse(t, key, a, b)
}

// TestLateMember has a member that gets the keys later than the other. Calls with a key
// that it does not show go to the one that does.
func TestLateMember(t *testing.T) {
	t.Parallel()
	for _, creation := range []string{"first", "all"} {
		t.Run(creation, func(t *testing.T) {
			t.Parallel()
			tok := testenv.NewToken(t)
			clone := rig.Dir(t)
			tok.Sandbox = "creation = \"" + creation + "\"\n"
			a, b := newMember(t, "a", tokensOf(tok)), newMember(t, "b", clone)
			s := prepare(t, rig.Config{Token: tok}, a, b)
			s.Initialise(t)
			sync(t, a.tokens, b.tokens)
			stop := replicate(t, a.tokens, b.tokens) // a start makes a key
			s.Start(t)
			s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
			stop()
			made, before := make(chan string, 1), a.objects(t)
			go func() {
				out, err := s.CreateKey(t.Context(), &kms.CreateKeyInput{})
				if err != nil {
					made <- "error: " + err.Error()
					return
				}
				made <- *out.KeyMetadata.KeyId
			}()
			if creation == "all" {
				eventually(t, func() (bool, string) { return only(a.objects(t), before) != nil, "the key was not made" })
				select {
				case id := <-made:
					t.Fatalf("answered %s before the other member shows the key", id)
				default:
				}
				defer replicate(t, a.tokens, b.tokens)()
			}
			id := <-made
			if strings.HasPrefix(id, "error: ") {
				t.Fatal(id)
			}
			if creation == "first" {
				for range 20 {
					s.encrypt(t, id)
				}
				add(t, a.tokens, b.tokens)
			}
			s.awaitUse(t, id, a, b)
			if missing := s.health(t).MissingMaterials; missing != 0 {
				t.Errorf("%d key materials are missing", missing)
			}
		})
	}
}
