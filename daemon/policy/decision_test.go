package policy

import (
	"testing"
)

// TestAccessDenied: the texts of AWS.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
func TestAccessDenied(t *testing.T) {
	t.Parallel()
	const key = " on resource: " + keyARN + " "
	tests := []struct {
		name, caller, action, resource string
		key, identity                  string
		want                           string
	}{
		{
			"no key policy", "alice", "Encrypt", "key", "Allow bob * *", "-",
			"User: arn:aws:iam::111122223333:user/alice is not authorized to perform: kms:Encrypt" + key + "because no resource-based policy allows the kms:Encrypt action",
		},
		{
			"no identity policy", "alice", "Encrypt", "key", "Allow root * *", "-",
			"User: arn:aws:iam::111122223333:user/alice is not authorized to perform: kms:Encrypt" + key + "because no identity-based policy allows the kms:Encrypt action",
		},
		{
			"deny in the key policy", "sess", "ReEncryptTo", "key", "Deny app * *", "-",
			"User: arn:aws:sts::111122223333:assumed-role/app/one is not authorized to perform: kms:ReEncryptTo" + key + "with an explicit deny in a resource-based policy",
		},
		{
			"deny in an identity policy", "app", "Sign", "key", "Allow app * *", "Deny Sign *",
			"User: arn:aws:iam::111122223333:role/app is not authorized to perform: kms:Sign" + key + "with an explicit deny in an identity-based policy",
		},
		{
			"no key", "alice", "CreateKey", "*", "-", "-",
			"User: arn:aws:iam::111122223333:user/alice is not authorized to perform: kms:CreateKey on resource: * because no identity-based policy allows the kms:CreateKey action",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := question(t, caller(t, tt.caller), "kms:"+tt.action, arnOf(tt.resource), "")
			d := agree(t, f, documentOf(t, tt.key, KeyPolicy), identityList(t, tt.identity), nil)
			if got := d.AccessDenied(&f.Request); d.Allowed || got != tt.want {
				t.Errorf("allowed=%v\n got %s\nwant %s", d.Allowed, got, tt.want)
			}
		})
	}
}

func TestHiddenKeyRevealsNoResource(t *testing.T) {
	t.Parallel()
	one := question(t, caller(t, "alice"), "kms:Decrypt", keyARN, "")
	other := question(t, caller(t, "alice"), "kms:Decrypt", arns["other"], "")
	want := "User: arn:aws:iam::111122223333:user/alice is not authorized to perform: kms:Decrypt on the resource associated with this " +
		"ciphertext because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access"
	if got := HiddenKey(&one.Request); got != want || got != HiddenKey(&other.Request) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDecisionNamesTheStatement: what `cmkctl policy explain` shows.
func TestDecisionNamesTheStatement(t *testing.T) {
	t.Parallel()
	key := mustParse(t, `{"Statement": [
		{"Sid": "first", "Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "kms:*", "Resource": "*"},
		{"Sid": "Allow use of the key", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/alice"}, "Action": "kms:Encrypt", "Resource": "*"},
		{"Effect": "Deny", "Principal": "*", "Action": "kms:Sign", "Resource": "*"}]}`, KeyPolicy)
	identity := []*Document{
		mustParse(t, `{"Statement": {"Effect": "Allow", "Action": "kms:Verify", "Resource": "*"}}`, IdentityPolicy, WithName("other.json")),
		mustParse(t, `{"Statement": [{"Effect": "Deny", "Action": "kms:GetPublicKey", "Resource": "*"}, {"Sid": "d", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]}`,
			IdentityPolicy, WithName("alice.json")),
	}
	grants := grantsOf(t, "alice DescribeKey")
	for action, want := range map[string]string{
		"Encrypt":      `allowed by statement 2 ("Allow use of the key") of the key policy`,
		"Decrypt":      `allowed by statement 2 ("d") of the identity policy alice.json`,
		"DescribeKey":  `allowed by grant grant-0`,
		"Sign":         `explicitly denied by statement 3 of the key policy`,
		"GetPublicKey": `explicitly denied by statement 1 of the identity policy alice.json`,
		"DisableKey":   `refused: no identity-based policy allows it`,
	} {
		f := question(t, caller(t, "alice"), "kms:"+action, keyARN, "")
		if got := Evaluate(&f.Request, key, identity, grants).String(); got != want {
			t.Errorf("%s: %s, want %s", action, got, want)
		}
	}
}
