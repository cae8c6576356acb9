package policy_test

import (
	"slices"
	"testing"

	"cmkd/daemon/policy"
)

func TestKnownKey(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"kms:KeySpec": true, "KMS:keyspec": true, "kms:CustomerMasterKeySpec": true, "kms:KeySpecs": false, "kms:": false,
		"kms:EncryptionContext:anything at all": true, "kms:EncryptionContextKeys": true, "kms:EncryptionContextKey": false,
		"kms:RecipientAttestation:PCR31": true, "kms:RecipientAttestation:PCR32": false, "kms:RecipientAttestation:PCR01": false,
		"kms:RecipientAttestation:NitroTPMPCR23": true, "kms:RecipientAttestation:NitroTPMPCR24": false,
		"kms:RecipientAttestation:ImageSha384": true, "kms:RecipientAttestation:PCR": false, "kms:RecipientAttestation:PCR-1": false,
		"cmkd:PeerUid": true, "cmkd:PeerUID": true, "cmkd:PeerPid": false,
		"aws:SourceIp": true, "aws:NotYetInvented": true, "s3:prefix": true,
	} {
		if got := policy.KnownKey(name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}

func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	d, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"kms:KeySpecs":"a","kms:KeySpec":"a"},"Null":{"cmkd:Pid":"true"}}},
		{"Effect":"Deny","Action":"kms:*","Resource":"*","Condition":{"StringLike":{"kms:KeySpecs":"a","aws:userid":"b"}}}]}`), policy.IdentityPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.UnknownKeys(), []string{"cmkd:Pid", "kms:KeySpecs"}; !slices.Equal(got, want) {
		t.Errorf("unknown keys %q, want %q", got, want)
	}
}

// TestUserID: aws:userid has the forms of AWS, and stays the same.
func TestUserID(t *testing.T) {
	t.Parallel()
	const user, role = "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:role/ops"
	for _, tt := range []struct {
		principal policy.Principal
		want      string
	}{
		{policy.Principal{Type: policy.Root, ARN: "arn:aws:iam::111122223333:root", AccountID: "111122223333"}, "111122223333"},
		{policy.Principal{Type: policy.User, ARN: user, AccountID: "111122223333", UserName: "alice"}, "AIDAK54MGDJ75DASHSZKW"},
		{policy.Principal{Type: policy.Role, ARN: role, AccountID: "111122223333", SessionARN: "arn:aws:sts::111122223333:assumed-role/ops/bob"}, "AROA67ES5G2DV463KP7ZL:bob"},
		{policy.Principal{Type: policy.Service, ARN: "ec2.amazonaws.com"}, ""},
	} {
		id := tt.principal.UserID()
		if id != tt.want {
			t.Errorf("%s: %s, want %s", tt.principal.ARN, id, tt.want)
		}
		d, err := policy.Parse([]byte(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*","Condition":{"StringEquals":{"aws:userid":"`+id+`"}}}}`), policy.IdentityPolicy)
		if err != nil {
			t.Fatal(err)
		}
		r := &policy.Request{Principal: tt.principal, Action: "kms:ListKeys", Resource: "*", ResourceAccount: "111122223333"}
		if got := policy.Explain(r, nil, []*policy.Document{d}, nil).Steps[0].Matched; got != (id != "") {
			t.Errorf("%s: aws:userid matches: %t", tt.principal.ARN, got)
		}
	}
}
