// Package troubled holds tests of cmkd on tokens that are in trouble and not dead:
// what callers are answered, and what the status says.
package troubled

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/rig"
	"cmkd/testenv/shim"
)

// scene is a daemon on a token behind a shim.
type scene struct {
	*rig.Rig
	*kms.Client
	control *shim.Control
}

func newScene(t *testing.T, cfg rig.Config) *scene {
	t.Helper()
	m := shim.New(t, testenv.Module(t))
	cfg.Module, cfg.Env = m.Path, map[string]string{}
	for _, e := range m.Env {
		name, value, _ := strings.Cut(e, "=")
		cfg.Env[name] = value
	}
	r := rig.New(t, cfg)
	return &scene{r, r.Client(""), m.Control}
}

func (s *scene) key(t *testing.T, in kms.CreateKeyInput) *string {
	t.Helper()
	made, err := s.CreateKey(t.Context(), &in)
	if err != nil {
		t.Fatal(err)
	}
	return made.KeyMetadata.KeyId
}

func (s *scene) encrypt(ctx context.Context, id *string) ([]byte, error) {
	out, err := s.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("text")})
	if err != nil {
		return nil, err
	}
	return out.CiphertextBlob, nil
}

// answer is the HTTP status and the code of an error, "200" for nil.
func answer(err error) string {
	if err == nil {
		return "200"
	}
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return err.Error()
	}
	status := 0
	if h, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = h.HTTPStatusCode()
	}
	return fmt.Sprintf("%d %s", status, api.ErrorCode())
}

func errOf[T any](_ T, err error) error { return err }

// status is the HTTP status of GET /status and its body.
func (s *scene) status(t *testing.T) (code int, body string) {
	t.Helper()
	code, body = s.Ask(t, http.MethodGet, "/status", "")
	if !json.Valid([]byte(body)) {
		t.Fatalf("status: %q", body)
	}
	return code, body
}

// until waits until the status is degraded, or well, with a text in it.
func (s *scene) until(t *testing.T, code int, text string) {
	t.Helper()
	var body string
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(10 * time.Millisecond) { // polls the status
		var now int
		if now, body = s.status(t); now == code && strings.Contains(body, text) {
			return
		}
	}
	t.Fatalf("the status is not %d with %q in a minute: %s", code, text, body)
}

func (s *scene) restarts(t *testing.T) (n int) {
	t.Helper()
	for _, p := range s.Status(t).Plugins {
		n += p.Restarts
	}
	return n
}

// TestFewSessions has three sessions for each plugin, of which it keeps two: calls wait, those that would
// wait for long are throttled, and no plugin is replaced.
func TestFewSessions(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	id := s.key(t, kms.CreateKeyInput{})
	s.control.Sessions(3)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	answers := func(callers int) map[string]int {
		got := map[string]int{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for range callers {
			wait.Go(func() {
				_, err := s.encrypt(t.Context(), id)
				mu.Lock()
				defer mu.Unlock()
				got[answer(err)]++
			})
		}
		wait.Wait()
		return got
	}
	s.control.Set("C_Encrypt", shim.Delay(10*time.Millisecond))
	if got := answers(32); got["200"] != 32 {
		t.Errorf("32 callers: %v", got)
	}
	s.until(t, http.StatusServiceUnavailable, "CKR_SESSION_COUNT")
	s.control.Set("C_Encrypt", shim.Delay(3*time.Second)) // more than a call waits for a session
	got := answers(8)
	if got["200"] == 0 || got["400 ThrottlingException"] == 0 || got["200"]+got["400 ThrottlingException"] != 8 {
		t.Errorf("8 callers of slow calls: %v", got)
	}
	if n := s.restarts(t); n != 0 {
		t.Errorf("%d plugins were replaced", n)
	}
	if n := strings.Count(s.Log(), "the token is limited"); n != 1 {
		t.Errorf("the log says %d times that there are few sessions", n)
	}
}

// TestNoMemory lets the token run out of memory for calls that make nothing.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	ctx := t.Context()
	id := s.key(t, kms.CreateKeyInput{})
	signing := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	mac := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	blob, err := s.encrypt(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	const throttled = "400 ThrottlingException"
	for _, c := range []struct {
		name, function string
		rv             uint
		call           func() error
		want           string
	}{
		{"Encrypt", "C_EncryptInit", p11.CKR_DEVICE_MEMORY, func() error { return errOf(s.encrypt(ctx, id)) }, throttled},
		{"Encrypt", "C_Encrypt", p11.CKR_HOST_MEMORY, func() error { return errOf(s.encrypt(ctx, id)) }, throttled},
		{"Decrypt", "C_DecryptInit", p11.CKR_DEVICE_MEMORY, func() error { return errOf(s.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})) }, throttled},
		{"Decrypt", "C_Decrypt", p11.CKR_DEVICE_MEMORY, func() error { return errOf(s.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})) }, throttled},
		{"GenerateDataKeyWithoutPlaintext", "C_GenerateKey", p11.CKR_DEVICE_MEMORY, func() error {
			return errOf(s.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256}))
		}, throttled},
		{"Sign", "C_SignInit", p11.CKR_DEVICE_MEMORY, func() error {
			return errOf(s.Sign(ctx, &kms.SignInput{KeyId: signing, Message: []byte("m"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}))
		}, throttled},
		{"GenerateMac", "C_SignInit", p11.CKR_DEVICE_MEMORY, func() error {
			return errOf(s.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: mac, Message: []byte("m"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}))
		}, throttled},
		{"CreateKey", "C_GenerateKey", p11.CKR_DEVICE_MEMORY, func() error { return errOf(s.CreateKey(ctx, &kms.CreateKeyInput{})) }, "400 LimitExceededException"},
		{"CreateKey", "C_GenerateKey", p11.CKR_HOST_MEMORY, func() error { return errOf(s.CreateKey(ctx, &kms.CreateKeyInput{})) }, throttled},
		{"RotateKeyOnDemand", "C_GenerateKey", p11.CKR_DEVICE_MEMORY, func() error {
			return errOf(s.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}))
		}, "400 LimitExceededException"},
	} {
		s.control.Set(c.function, shim.Fail(c.rv))
		if got := answer(c.call()); got != c.want {
			t.Errorf("%s when %s answers %v: %s, want %s", c.name, c.function, p11.Error(c.rv), got, c.want)
		}
		s.control.Clear(c.function)
		if got := answer(c.call()); got != "200" {
			t.Errorf("%s afterwards: %s", c.name, got)
		}
	}
	if n := s.restarts(t); n != 0 {
		t.Errorf("%d plugins were replaced", n)
	}
}

// TestTokenThatMakesNothing starts the daemon on a token that is full, or
// write-protected: it serves what needs no new object, and says what it does not.
func TestTokenThatMakesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		set    func(*shim.Control)
		create string // what CreateKey answers
		status string
	}{
		{"full", func(c *shim.Control) { c.RefuseObjects(p11.CKR_DEVICE_MEMORY) }, "400 LimitExceededException", "no room"},
		{"full, by SoftHSM2's word", func(c *shim.Control) { c.RefuseObjects(p11.CKR_GENERAL_ERROR) }, "400 LimitExceededException", "no object is made"},
		{"write-protected", func(c *shim.Control) { c.ReadOnly(true) }, "400 UnsupportedOperationException", "write-protected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, rig.Config{})
			ctx := t.Context()
			id := s.key(t, kms.CreateKeyInput{})
			blob, err := s.encrypt(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			c.set(s.control)
			s.Start(t)
			if got := answer(errOf(s.encrypt(ctx, id))); got != "200" {
				t.Errorf("Encrypt: %s", got)
			}
			if got := answer(errOf(s.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob}))); got != "200" {
				t.Errorf("Decrypt: %s", got)
			}
			if got := answer(errOf(s.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256}))); got != "200" {
				t.Errorf("GenerateDataKeyWithoutPlaintext: %s", got)
			}
			if got := answer(errOf(s.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id}))); got != "200" {
				t.Errorf("DisableKey: %s", got)
			}
			if got := answer(errOf(s.CreateKey(ctx, &kms.CreateKeyInput{}))); got != c.create {
				t.Errorf("CreateKey: %s, want %s", got, c.create)
			}
			s.until(t, http.StatusServiceUnavailable, c.status)
			s.until(t, http.StatusServiceUnavailable, "epochError")
			s.epochWaits(t)
			if n := s.restarts(t); n != 0 {
				t.Errorf("%d plugins were replaced", n)
			}
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			s.control.ClearAll()
			s.Start(t)
			if got := answer(errOf(s.CreateKey(ctx, &kms.CreateKeyInput{}))); got != "200" {
				t.Errorf("CreateKey, with room: %s", got)
			}
			s.until(t, http.StatusOK, "")
		})
	}
}

// epochWaits checks that an epoch that cannot begin costs the token nothing for a
// minute, and is in the log once.
func (s *scene) epochWaits(t *testing.T) {
	t.Helper()
	const line = "the epoch of the database was not renewed"
	made := s.control.Calls("C_GenerateKey")
	for range 5 {
		if err := s.Daemon.RunJobs(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if now := s.control.Calls("C_GenerateKey"); now != made {
		t.Errorf("the jobs tried to make %d keys", now-made)
	}
	if n := strings.Count(s.Log(), line); n != 1 {
		t.Errorf("the log says %d times that %s", n, line)
	}
}

// TestEpochMended: when the token makes keys again, so that somebody gets one, the
// epoch that had to wait begins with the next jobs.
func TestEpochMended(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.control.RefuseObjects(p11.CKR_DEVICE_MEMORY)
	s.Start(t)
	s.until(t, http.StatusServiceUnavailable, "epochError")
	s.control.RefuseObjects(p11.CKR_OK)
	s.key(t, kms.CreateKeyInput{})
	if err := s.Daemon.RunJobs(t.Context()); err != nil {
		t.Error(err)
	}
	if _, body := s.status(t); strings.Contains(body, "epochError") {
		t.Errorf("the epoch waits on: %s", body)
	}
}

// TestTokenAway takes the token away. Until it counts as lasting every operation
// that needs it is answered so that clients repeat it; then that the key, or the
// token, is unavailable.
func TestTokenAway(t *testing.T) {
	t.Parallel()
	// Long enough for a loaded machine to make all calls before it is over.
	s := newScene(t, rig.Config{Tables: "unavailable_after = \"8s\"\n"})
	ctx := t.Context()
	id := s.key(t, kms.CreateKeyInput{})
	blob, err := s.encrypt(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	pair := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	mac := s.key(t, kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	// Of plugins that nobody calls while the token has just gone.
	others := map[string]func() error{
		"Sign": func() error {
			return errOf(s.Sign(ctx, &kms.SignInput{KeyId: pair, Message: []byte("m"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256}))
		},
		"GenerateMac": func() error {
			return errOf(s.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: mac, Message: []byte("m"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256}))
		},
	}
	calls := map[string]func() error{
		"Encrypt":           func() error { return errOf(s.encrypt(ctx, id)) },
		"Decrypt":           func() error { return errOf(s.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})) },
		"CreateKey":         func() error { return errOf(s.CreateKey(ctx, &kms.CreateKeyInput{})) },
		"RotateKeyOnDemand": func() error { return errOf(s.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id})) },
		"GenerateDataKeyWithoutPlaintext": func() error {
			return errOf(s.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: id, KeySpec: types.DataKeySpecAes256}))
		},
		"GenerateRandom": func() error {
			n := int32(8)
			return errOf(s.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: &n}))
		},
	}
	state := func() types.KeyState {
		t.Helper()
		out, err := s.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id})
		if err != nil {
			t.Fatal(err)
		}
		return out.KeyMetadata.KeyState
	}
	s.control.Away(true)
	var all sync.WaitGroup // at once: the time runs
	for name, call := range calls {
		all.Go(func() {
			if got := answer(call()); got != "500 KeyUnavailableException" {
				t.Errorf("%s, at first: %s", name, got)
			}
		})
	}
	all.Wait()
	if got := state(); got != types.KeyStateEnabled {
		t.Errorf("at first the key is %s", got)
	}
	s.until(t, http.StatusServiceUnavailable, "unavailable")
	for begun := time.Now(); state() != types.KeyStateUnavailable; time.Sleep(50 * time.Millisecond) { // polls the state
		if time.Since(begun) > time.Minute {
			t.Fatalf("a minute later the key is %s", state())
		}
	}
	maps.Copy(calls, others)
	for name, call := range calls {
		// At the same moment for all plugins, whichever of them lost it first.
		if got := answer(call()); got != "400 KMSInvalidStateException" {
			t.Errorf("%s, later: %s", name, got)
		}
	}
	s.control.Away(false)
	for name, call := range calls {
		for begun := time.Now(); call() != nil; time.Sleep(10 * time.Millisecond) { // polls
			if time.Since(begun) > time.Minute {
				t.Fatalf("%s a minute after the token is back: %v", name, call())
			}
		}
	}
	if got := state(); got != types.KeyStateEnabled {
		t.Errorf("afterwards the key is %s", got)
	}
}

// TestIdleTokenAway: a token that nobody uses is seen to be away, and to be back.
func TestIdleTokenAway(t *testing.T) {
	t.Parallel()
	s := newScene(t, rig.Config{})
	s.until(t, http.StatusOK, `"state": "ok"`)
	s.control.Away(true)
	s.until(t, http.StatusServiceUnavailable, `"state": "unavailable"`)
	s.control.Away(false)
	s.until(t, http.StatusOK, `"state": "ok"`)
}
