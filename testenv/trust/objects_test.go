package trust

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/daemon/store/sqlite"
	"cmkd/testenv/rig"
)

// count is how often a test does what it does, unless the environment says
// otherwise: `make long` asks for more.
func count(t *testing.T, variable string, preset int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return preset
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s must be a number from 1, not %q", variable, text)
	}
	return n
}

// use does with a key what it is for.
func use(t *testing.T, c *kms.Client, id string) {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		t.Errorf("key %s: %v", id, err)
		return
	}
	switch out.KeyMetadata.KeyUsage {
	case types.KeyUsageTypeEncryptDecrypt:
		_, err = c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("text")})
	case types.KeyUsageTypeGenerateVerifyMac:
		_, err = c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, Message: []byte("text"), MacAlgorithm: types.MacAlgorithmSpecHmacSha256})
	default:
		_, err = c.Sign(t.Context(), &kms.SignInput{KeyId: &id, Message: []byte("text"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	}
	if err != nil {
		t.Errorf("key %s (%s) does not work: %v", id, out.KeyMetadata.KeyUsage, err)
	}
}

var objectLine = regexp.MustCompile(`(?m)^(Secret Key|Private Key|Public Key) Object.*\n(?:  .*\n)*`)

// compareWithToken compares the CKA_IDs in the store of a stopped daemon with
// those in the token.
func compareWithToken(t *testing.T, r *rig.Rig) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(r.Dir, "s", "cmkd.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	late := map[string]bool{}
	for i := range s.View().Intents() {
		if i.Action != "create" { // one to create is kept for minutes after a kill: its object may come late
			t.Errorf("an intent is left: %s of key %s", i.Action, i.KeyID)
		}
		late[fmt.Sprintf("%x", i.CKAID)] = true
	}
	known := map[string]bool{}
	for v := range s.View().AllVersions() {
		known[fmt.Sprintf("%x", v.CKAID)] = false
	}
	for k := range s.View().AllSystemKeys() {
		known[fmt.Sprintf("%x", k.CKAID)] = false
	}
	tool := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label,
		"--login", "--pin", r.Token.PIN, "--list-objects")
	tool.Env = append(os.Environ(), r.Token.Env...)
	text, err := tool.Output() // on standard error it warns of each sensitive value
	if err != nil {
		t.Fatalf("pkcs11-tool: %v", err)
	}
	id := regexp.MustCompile(`(?m)^\s*ID:\s*([0-9a-f]+)$`)
	objects := objectLine.FindAllString(string(text), -1)
	for _, o := range objects {
		m := id.FindStringSubmatch(o)
		if m == nil {
			t.Errorf("an object without an ID:\n%s", o)
			continue
		}
		if late[m[1]] {
			continue
		}
		if _, ok := known[m[1]]; !ok {
			t.Errorf("an object that no row or intent names:\n%s", o)
		}
		if !strings.HasPrefix(o, "Public") {
			known[m[1]] = true
		}
	}
	for id, found := range known {
		if !found {
			t.Errorf("no object in the token for %s", id)
		}
	}
	t.Logf("%d objects for %d keys, %d creations that may come late", len(objects), len(known), len(late))
}
