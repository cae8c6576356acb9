package api

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// The principals that grants and policies of the tests name.
const (
	someone     = "arn:aws:iam::" + rig.Account + ":user/someone"
	somePager   = "arn:aws:iam::" + rig.Account + ":user/pager"
	someRetirer = "arn:aws:iam::" + rig.Account + ":role/retirer"
)

// otherRegion is the second Region of the daemon under test.
const otherRegion = "eu-west-1"

// api is one daemon that the tests of the API share: the SDK's client on the
// socket, and keys that are made once, when the first test needs them.
type api struct {
	*rig.Rig
	*kms.Client
	other *kms.Client // in otherRegion

	mu   sync.Mutex
	keys map[string]*sharedKey // guarded by mu
}

type sharedKey struct {
	once sync.Once
	id   string
	err  error
}

func newAPI(t *testing.T, cfg rig.Config) *api {
	t.Helper()
	cfg.Regions = []string{rig.Region, otherRegion}
	cfg.Tables += fmt.Sprintf("[principals]\nknown = [%q, %q, %q, %q, %q, %q, %q]\n", someone, somePager, someRetirer,
		accountUser("marked0"), accountUser("marked1"), accountUser("marked2"), accountUser("marked3"))
	r := rig.New(t, cfg)
	t.Cleanup(func() {
		for _, p := range r.Status(t).Plugins {
			if p.Restarts != 0 { // the tests send much that is malformed
				t.Errorf("plugin %s was replaced %d times, last because %s", p.Name, p.Restarts, p.LastError)
			}
		}
	})
	return &api{Rig: r, Client: r.Client(""), other: r.Client(otherRegion), keys: map[string]*sharedKey{}}
}

// TestAPI runs the tests of the API against one daemon as `cmkctl init`
// configures it.
func TestAPI(t *testing.T) {
	t.Parallel()
	runAPI(t, newAPI(t, rig.Config{}), apiTests)
}

// TestAPIPlaintext runs those that want data keys in the clear, as AWS KMS
// gives them, against a daemon that is configured so.
func TestAPIPlaintext(t *testing.T) {
	t.Parallel()
	runAPI(t, newAPI(t, rig.Config{PlaintextDataKeys: true}), apiPlaintextTests)
}

type apiTest struct {
	name string
	run  func(t *testing.T, a *api)
}

func runAPI(t *testing.T, a *api, tests []apiTest) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, a)
		})
	}
}

// key returns the ID of a key that tests share: they do not change it.
func (a *api) key(t *testing.T, spec types.KeySpec, usage types.KeyUsageType) *string {
	t.Helper()
	name := fmt.Sprintf("%s %s", spec, usage)
	a.mu.Lock()
	k, ok := a.keys[name]
	if !ok {
		k = &sharedKey{}
		a.keys[name] = k
	}
	a.mu.Unlock()
	k.once.Do(func() {
		out, err := a.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		if k.err = err; err == nil {
			k.id = *out.KeyMetadata.KeyId
		}
	})
	if k.err != nil {
		t.Fatalf("CreateKey %s: %v", name, k.err)
	}
	return &k.id
}

// symmetric, signing and authenticating return shared keys of the three kinds
// that are quick to make.
func (a *api) symmetric(t *testing.T) *string {
	t.Helper()
	return a.key(t, types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt)
}

func (a *api) signing(t *testing.T) *string {
	t.Helper()
	return a.key(t, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
}

func (a *api) authenticating(t *testing.T) *string {
	t.Helper()
	return a.key(t, types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
}

// fresh makes a key that the test may change.
func (a *api) fresh(t *testing.T, in *kms.CreateKeyInput) *string {
	t.Helper()
	return aws.String(rig.NewKey(t, a.Client, in))
}

func keyARN(id *string) string { return rig.ARN("key/" + *id) }

// want is an expected outcome: an error code, "" for success, and the message.
type want struct {
	code    string
	message string // anyMessage: not looked at
}

const anyMessage = "*"

func wantOK() want                        { return want{} }
func wantCode(code string) want           { return want{code, anyMessage} }
func wantError(code, message string) want { return want{code, message} }
func validation(message string) want      { return want{"ValidationException", message} }
func dryRun() want {
	return want{"DryRunOperationException", "The request would have succeeded, but the DryRun option is set."}
}

func notFound(format string, a ...any) want {
	return want{"NotFoundException", fmt.Sprintf(format, a...)}
}

func invalidState(arn, state string) want {
	return want{"KMSInvalidStateException", arn + " is " + state + "."}
}

// check compares an error with what is wanted of it.
func (w want) check(t *testing.T, err error) {
	t.Helper()
	switch {
	case rig.Code(err) != w.code:
		t.Errorf("got %v, want %s %q", err, w.code, w.message)
	case w.code != "" && w.message != anyMessage && rig.Message(err) != w.message:
		t.Errorf("%s says\n%q, want\n%q", w.code, rig.Message(err), w.message)
	}
}

// call is one call of a table.
type call struct {
	name string
	do   func(ctx context.Context) error
	want want
}

func runCalls(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) { c.want.check(t, c.do(t.Context())) })
	}
}
