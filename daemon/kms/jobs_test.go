package kms_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/kms"
	"cmkd/daemon/lifecycle"
	"cmkd/daemon/policy"
	"cmkd/daemon/policy/templates"
	"cmkd/socket/kmsapi"
)

// TestJobs lets time pass: what is due is rotated and deleted, the last use of a key is
// written, and a new epoch begins where something has changed.
func TestJobs(t *testing.T) {
	t.Parallel()
	s := trusted(t)
	id, gone := s.newKey(nil), s.newKey(nil)
	s.call("", "EnableKeyRotation", map[string]any{"KeyId": id, "RotationPeriodInDays": 90})
	s.call("", "ScheduleKeyDeletion", map[string]any{"KeyId": gone, "PendingWindowInDays": 7})
	blob := s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": "eA=="})["CiphertextBlob"]
	if n, err := s.service.DeleteDue(t.Context()); n != 0 || err != nil {
		t.Errorf("before anything is due: %d deleted, %v", n, err)
	}
	s.later = 91 * day
	deleted, err := s.service.DeleteDue(t.Context())
	rotated, again := s.service.RotateDue(t.Context())
	if deleted != 1 || rotated != 1 || errors.Join(err, again) != nil {
		t.Errorf("deleted %d, rotated %d, %v", deleted, rotated, errors.Join(err, again))
	}
	s.call(kmsapi.CodeNotFoundException, "DescribeKey", map[string]any{"KeyId": gone})
	rotations, _ := s.call("", "ListKeyRotations", map[string]any{"KeyId": id})["Rotations"].([]any)
	if len(rotations) != 1 {
		t.Errorf("rotations: %v", rotations)
	}
	s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
	if err := errors.Join(s.service.FlushUsage(t.Context()), s.service.FlushRefusals(t.Context()),
		s.service.AdvanceEpoch(t.Context()), s.service.CheckSystemKeys(t.Context(), "main")); err != nil {
		t.Error(err)
	}
	s.restart()
	s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
	if n := len(s.service.AuditKeys()); n != 1 {
		t.Errorf("%d keys of the audit trail, want 1", n)
	}
}

// TestManagedKeys: a managed key is made with its first use, and has the policy that the
// configuration gives it.
func TestManagedKeys(t *testing.T) {
	t.Parallel()
	document := templates.DefaultKeyPolicy(account)
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		cfg.Managed = []lifecycle.ManagedKey{{Alias: "alias/aws/backup", Description: "for backups", Policy: document}}
	})
	blob := s.call("", "Encrypt", map[string]any{"KeyId": "alias/aws/backup", "Plaintext": "eA=="})["CiphertextBlob"]
	made, _ := s.call("", "DescribeKey", map[string]any{"KeyId": "alias/aws/backup"})["KeyMetadata"].(map[string]any)
	if made["KeyManager"] != "AWS" || made["Description"] != "for backups" {
		t.Errorf("%v", made)
	}
	s.call(kmsapi.CodeNotFoundException, "Encrypt", map[string]any{"KeyId": "alias/aws/other", "Plaintext": "eA=="})
	changed := strings.Replace(document, "Enable IAM User Permissions", "Changed", 1)
	s.cfg.Managed[0].Policy = changed
	s.service = kms.New(s.cfg)
	if err := s.service.UpdateManaged(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, _ := s.call("", "GetKeyPolicy", map[string]any{"KeyId": made["KeyId"]})["Policy"].(string)
	if changed == document || now != changed {
		t.Errorf("policy %s, want %s", now, changed)
	}
	s.call("", "Decrypt", map[string]any{"CiphertextBlob": blob})
}

// TestQuestions: what would be decided of a call that nobody makes, and the policies and
// principals that such questions are about.
func TestQuestions(t *testing.T) {
	t.Parallel()
	s := newInMemory(t)
	id := s.newKey(nil)
	const grantee = "arn:aws:iam::" + account + ":user/bob"
	s.call("", "CreateGrant", map[string]any{"KeyId": id, "GranteePrincipal": grantee, "Operations": []string{"Decrypt"}})
	bob := &journal.Caller{Principal: policy.Principal{Type: policy.User, ARN: grantee, AccountID: account, UserName: "bob"}}
	for _, c := range []struct {
		name    string
		ask     access.Question
		allowed bool
		unknown string // part of the error
	}{
		{"grant", access.Question{Caller: bob, Action: "kms:Decrypt", KeyID: id}, true, ""},
		{"not granted", access.Question{Caller: bob, Action: "kms:Encrypt", KeyID: id}, false, ""},
		{"on no key", access.Question{Caller: bob, Action: "kms:ListKeys"}, false, ""},
		{"administrator", access.Question{Caller: s.caller, Action: "kms:ScheduleKeyDeletion", KeyID: id}, true, ""},
		{"another policy", access.Question{Caller: bob, Action: "kms:Sign", KeyID: id, Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + grantee + `"},"Action":"kms:Sign","Resource":"*","Condition":{"StringEquals":{"kms:MessageType":"RAW"}}}]}`}, true, ""},
		{"unknown action", access.Question{Caller: bob, Action: "kms:Nope"}, false, "unknown action"},
		{"two actions", access.Question{Caller: bob, Action: "kms:ReEncrypt"}, false, "kms:ReEncryptFrom"},
		{"no key", access.Question{Caller: bob, Action: "kms:Decrypt", KeyID: "alias/none"}, false, "NotFound"},
	} {
		answer, err := s.service.Explain(&c.ask)
		switch {
		case c.unknown != "":
			if err == nil || !strings.Contains(err.Error(), c.unknown) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil || answer.Decision.Allowed != c.allowed:
			t.Errorf("%s: %+v, %v", c.name, answer, err)
		}
	}
	names, err := s.service.PrincipalsOf("", id)
	if err != nil || !slices.Contains(names, grantee) {
		t.Errorf("principals %q, %v", names, err)
	}
	if arn, err := s.service.ARNOf("", id); err != nil || arn != "arn:aws:kms:us-east-1:"+account+":key/"+id {
		t.Errorf("ARN %s, %v", arn, err)
	}
	for _, spec := range [][2]string{{"", ""}, {"RSA_2048", "SIGN_VERIFY"}, {"RSA_2048", "ENCRYPT_DECRYPT"}, {"HMAC_256", "GENERATE_VERIFY_MAC"}, {"ECC_NIST_P256", "KEY_AGREEMENT"}} {
		document, err := s.service.ConsolePolicy(nil, []string{grantee}, spec[0], spec[1])
		unknown, bad := s.service.CheckPolicy(document)
		if err != nil || bad != nil || len(unknown) > 0 || !strings.Contains(document, grantee) {
			t.Errorf("policy for %q: %s, %v", spec, document, errors.Join(err, bad))
		}
	}
	if _, err := s.service.CheckPolicy(""); err == nil {
		t.Error("an empty policy passes")
	}
}
