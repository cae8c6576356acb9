package policy

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// logged is the daemon's log, for a test that reads it.
type logged struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestUnknownConditionKeys: AWS accepts a condition key that it does not have,
// and so does cmkd; but whoever looks is told.
func TestUnknownConditionKeys(t *testing.T) {
	t.Parallel()
	log := &logged{}
	r := rig.New(t, rig.Config{Log: log})
	id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{})
	text := rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(rig.RootARN, `"kms:Encrypt"`, `{"StringEquals":{"kms:KeySpecs":"RSA_2048","kms:EncryptionContext:secret":"x"}}`))
	if _, err := r.Client("").PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &id, Policy: text}); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, `"conditionKey":"kms:KeySpecs"`) || strings.Contains(got, "secret") {
		t.Errorf("the log does not name kms:KeySpecs alone:\n%s", got)
	}
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(*text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, ok := rig.Cmkctl(t, r, "policy", "check", "--key", id, "--policy", file)
	if !ok || !strings.Contains(out, "warning: no request ever has the condition key kms:KeySpecs") {
		t.Errorf("policy check: %t\n%s", ok, out)
	}
}

// TestDeprecatedConditionKeys: kms:CustomerMasterKeySpec and
// kms:CustomerMasterKeyUsage deny what kms:KeySpec and kms:KeyUsage would.
func TestDeprecatedConditionKeys(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	for _, condition := range []string{`{"StringEquals":{"kms:CustomerMasterKeySpec":"SYMMETRIC_DEFAULT"}}`, `{"StringLike":{"kms:customermasterkeyusage":"ENCRYPT*"}}`} {
		deny := strings.Replace(rig.Allowing("*", `"kms:Encrypt"`, condition), "Allow", "Deny", 1)
		id := rig.NewKey(t, r.Client(""), &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), deny)})
		_, err := r.Client("").Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("x")})
		rig.Outcome(t, condition, err, rig.Denied)
		_, err = r.Client("").DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(id)})
		rig.Outcome(t, "another action", err, "")
	}
}
