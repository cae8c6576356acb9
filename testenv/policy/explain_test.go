package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv/rig"
)

// TestSeeingWhy: keys made by role, and the questions about who may do what.
func TestSeeingWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "user/uid-61004"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "user/uid-61004/some.json"), []byte(
		`{"Version":"2012-10-17","Statement":[{"Sid":"Prod","Effect":"Allow","Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:EncryptionContext:stage":"prod"}}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	r := rig.New(t, rig.Config{World: true, Extra: fmt.Sprintf("identity_policies = %q", dir)})
	ctx := t.Context()

	out, ok := rig.Cmkctl(t, r, "key", "create", "--alias", "app", "--description", "of the app", "--admin", "uid-61001", "--user", "group:gid-61100")
	arn, _, _ := strings.Cut(out, "\n")
	if !ok || !strings.HasPrefix(arn, "arn:aws:kms:") {
		t.Fatalf("key create: %s", out)
	}
	rig.Outcome(t, "the user", rig.EncryptWith(t, r.As(t, rig.App), "alias/app"), "")
	rig.Outcome(t, "the administrator", rig.EncryptWith(t, r.As(t, rig.Operator), "alias/app"), rig.Denied)
	got, err := r.As(t, rig.Operator).GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &arn})
	if err != nil || !strings.Contains(*got.Policy, "Allow access for Key Administrators") || !strings.Contains(*got.Policy, rig.AppGroup) {
		t.Errorf("the administrator reads the policy: %v", err)
	}
	if out, ok := rig.Cmkctl(t, r, "key", "create", "--user", "no-such-user"); ok || !strings.Contains(out, "no such user") {
		t.Errorf("key create for nobody: %s", out)
	}
	if out, ok := rig.Cmkctl(t, r, "key", "create", "--spec", "HMAC_256", "--usage", "GENERATE_VERIFY_MAC", "--user", "uid-61002"); !ok {
		t.Errorf("key create of an HMAC key: %s", out)
	}

	for _, tt := range []struct {
		args  string
		ok    bool
		wants []string
	}{
		{"--as group:gid-61100 --action kms:Decrypt --key alias/app", true, []string{`allowed by statement 3 ("Allow use of the key") of the key policy`, "Enabled"}},
		{"--as uid-61001 --action decrypt --key alias/app", false, []string{"refused", "Action does not match"}},
		{"--as uid-61004 --action kms:Decrypt --key alias/app", false, []string{"the condition StringEquals on kms:EncryptionContext:stage is not met"}},
		{"--as uid-61004 --action kms:Decrypt --key alias/app --context stage=prod", true, []string{`allowed by statement 1 ("Prod") of the identity policy user/uid-61004/some`}},
		{"--as root --action kms:CreateKey", true, []string{"arn:aws:iam::123456789012:root"}},
		{"--as nobody-of-this-name --action kms:CreateKey", false, []string{"no such user"}},
		{"--as root --action kms:Fly --key alias/app", false, []string{`unknown action "kms:Fly"`}},
		{"--as root --action kms:ReEncrypt --key alias/app", false, []string{`unknown action "kms:ReEncrypt": use kms:ReEncryptFrom or kms:ReEncryptTo`}},
		{"--as root --action kms:Decrypt --key alias/none", false, []string{"is not found"}},
	} {
		out, ok := rig.Cmkctl(t, r, append([]string{"policy", "explain"}, strings.Fields(tt.args)...)...)
		for _, text := range tt.wants {
			if ok != tt.ok || !strings.Contains(out, text) {
				t.Errorf("explain %s: %t, want %t and %q in\n%s", tt.args, ok, tt.ok, text, out)
			}
		}
	}

	out, ok = rig.Cmkctl(t, r, "policy", "who", "--action", "kms:Decrypt", "--key", "alias/app")
	allowed, depends, _ := strings.Cut(out, "depends:")
	if !ok || !strings.Contains(allowed, ":root ") || !strings.Contains(allowed, rig.AppGroup) || strings.Contains(allowed, "61004") ||
		strings.Contains(out, "61001") || !strings.Contains(depends, "61004") || strings.Contains(out, "EVERYONE") {
		t.Errorf("who: %s", out)
	}

	// A new policy that forgets the users, and one that does not.
	if _, err := r.As(t, rig.App).Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/app"), Plaintext: []byte("x"), EncryptionContext: pairs{"secretpurpose": "hidden"}}); err != nil {
		t.Fatal(err)
	}
	same, shut := filepath.Join(dir, ".same.json"), filepath.Join(dir, ".shut.json")
	for file, text := range map[string]string{same: *got.Policy, shut: *rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(rig.Operator.ARN(), `"kms:Get*"`, ""))} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, ok = rig.Cmkctl(t, r, "policy", "check", "--key", "alias/app", "--policy", shut)
	if ok || !strings.Contains(out, "uid-61002") || !strings.Contains(out, "kms:Encrypt") || !strings.Contains(out, "secretpurpose") || strings.Contains(out, "hidden") || strings.Contains(out, "uid-61001") {
		t.Errorf("check of a policy that forgets the users: %s", out)
	}
	if out, ok := rig.Cmkctl(t, r, "policy", "check", "--key", "alias/app", "--policy", shut, "--since", "0s"); !ok || !strings.HasPrefix(out, "0 calls") {
		t.Errorf("check of no time at all: %s", out)
	}
	if out, ok := rig.Cmkctl(t, r, "policy", "check", "--key", "alias/app", "--policy", filepath.Join(dir, "user/uid-61004/some.json")); ok || !strings.Contains(out, "Principal") {
		t.Errorf("check of an identity policy: %s", out)
	}

	// Others may not ask.
	for _, path := range []string{"explain", "who", "check"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/policy/"+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		if status, _, _ := rig.Do(t, r.HTTPAs(t, rig.App), req); status != http.StatusForbidden {
			t.Errorf("a user asks %s: %d", path, status)
		}
	}
	if !strings.Contains(r.AuditTrail(t), `"eventName":"ExplainPolicy"`) {
		t.Error("the questions are not recorded")
	}
}

// TestQuestionsAreBounded: anybody may ask for the text of a key policy, and not
// for one that costs the daemon seconds.
func TestQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true})
	ask := func(users []string) (status int, text string) {
		t.Helper()
		body, err := json.Marshal(map[string]any{"users": users, "keySpec": "SYMMETRIC_DEFAULT", "keyUsage": "ENCRYPT_DECRYPT"})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/policy/key", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		status, _, raw := rig.Do(t, r.HTTPAs(t, rig.App), req)
		return status, raw
	}
	if status, text := ask(slices.Repeat([]string{"root"}, 500)); status != http.StatusOK {
		t.Errorf("500 names: %d %s", status, text)
	}
	if status, text := ask(slices.Repeat([]string{"root"}, 501)); status != http.StatusBadRequest || !strings.Contains(text, "at most 500") {
		t.Errorf("501 names: %d %s", status, text)
	}
	if status, text := ask(slices.Repeat([]string{"root"}, 40_000)); status != http.StatusBadRequest || !strings.Contains(text, "too large") {
		t.Errorf("280,000 bytes of names: %d %s", status, text)
	}
}
