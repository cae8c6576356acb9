package policy

import (
	"os"
	"slices"
	"testing"

	"cmkd/daemon/policy/templates"
)

// TestTemplates checks the policies that are made against golden files, whose
// form is that of AWS KMS, and parses them.
func TestTemplates(t *testing.T) {
	t.Parallel()
	admins := []string{arns["bob"], arns["app"]}
	for name, got := range map[string]string{
		"default":   templates.DefaultKeyPolicy(account),
		"console":   templates.KeyPolicyFor(account, admins, []string{arns["ops"]}, templates.UseSymmetricEncryption),
		"signing":   templates.KeyPolicyFor(account, nil, []string{arns["alice"]}, templates.UseSigning),
		"rsa":       templates.KeyPolicyFor(account, admins[:1], []string{arns["alice"]}, templates.UseAsymmetricEncryption),
		"mac":       templates.KeyPolicyFor(account, nil, []string{arns["alice"]}, templates.UseMAC),
		"agreement": templates.KeyPolicyFor(account, nil, []string{arns["alice"]}, templates.UseKeyAgreement),
		"managed":   templates.ManagedKeyPolicy(account, []string{"*"}),
		"kem":       templates.KeyPolicyFor(account, nil, []string{arns["alice"]}, templates.UseEncapsulation),
	} {
		mustParse(t, got, KeyPolicy)
		want, err := os.ReadFile("testdata/template-" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestTemplateQuotes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`a"b`, `a\b`, "Ünal", "日本", "\U0001F511"} {
		arn := "arn:aws:iam::111122223333:user/" + name
		d := mustParse(t, templates.KeyPolicyFor(account, nil, []string{arn}, templates.UseMAC), KeyPolicy)
		if !slices.Contains(d.Principals(), arn) {
			t.Errorf("%q became %q", arn, d.Principals())
		}
	}
}

func TestPrincipals(t *testing.T) {
	t.Parallel()
	d := mustParse(t, documentOf(t, "Allow bob,account,ec2 * * ; Deny !bob,ops,root * * ; Allow * * *", KeyPolicy), KeyPolicy)
	want := []string{arns["ops"], rootARN, arns["bob"], "ec2.amazonaws.com"}
	if got := d.Principals(); !slices.Equal(got, want) {
		t.Errorf("principals %q, want %q", got, want)
	}
}

func TestDocumentProperties(t *testing.T) {
	t.Parallel()
	d := mustParse(t, templates.DefaultKeyPolicy(account), KeyPolicy, WithName("n"))
	if d.Kind() != KeyPolicy || d.Name() != "n" || d.ID() != "key-default-1" || d.Version() != "2012-10-17" || d.Len() != 1 {
		t.Errorf("document %+v", d)
	}
	if v := mustParse(t, documentOf(t, "Allow * *", IdentityPolicy), IdentityPolicy).Version(); v != "2012-10-17" {
		t.Error(v)
	}
	if v := mustParse(t, `{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}`, IdentityPolicy).Version(); v != "2008-10-17" {
		t.Error(v)
	}
}

// TestLocksOut: the safety check of PutKeyPolicy.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html
func TestLocksOut(t *testing.T) {
	t.Parallel()
	tests := []struct {
		caller, key, identity string
		context               string
		want                  bool
	}{
		{"alice", "Allow alice PutKeyPolicy *", "-", "", false},
		{"alice", "Allow alice Put* *", "-", "", false},
		{"alice", "Allow ops * *", "-", "", false},
		{"alice", "Allow bob * *", "-", "", true},
		{"alice", "Allow alice Encrypt *", "-", "", true},
		{"alice", "Allow root * *", "Allow kms:PutKeyPolicy *", "", false},
		{"alice", "Allow root * *", "Allow kms:Encrypt *", "", true},
		{"alice", "Allow root * *", "-", "", true},
		{"root", "Allow root * *", "-", "", false},
		{"root", "Allow alice * *", "-", "", true},
		{"alice", "Allow alice * * ; Deny alice PutKeyPolicy *", "-", "", true},
		{"alice", "Allow alice * * ; Deny !root * *", "-", "", true},
		{"alice", "Allow alice * *", "Deny kms:PutKeyPolicy *", "", true},
		{"alice", "Allow alice * other", "-", "", true},
		{"alice", "Allow alice * -", "-", "", true},
		{"alice", `Allow alice * * {"Bool": {"x:mfa": "true"}}`, "-", "", true},
		{"alice", `Allow alice * * {"Bool": {"x:mfa": "true"}}`, "-", "x:mfa=true", false},
	}
	for _, tt := range tests {
		f := question(t, caller(t, tt.caller), "kms:CreateKey", keyARN, tt.context)
		var identity []*Document
		for _, text := range identityList(t, tt.identity) {
			identity = append(identity, mustParse(t, text, IdentityPolicy))
		}
		d := mustParse(t, documentOf(t, tt.key, KeyPolicy), KeyPolicy)
		if got := d.LocksOut(&f.Request, identity); got != tt.want {
			t.Errorf("LocksOut(%s, %s / %s) = %v", tt.caller, tt.key, tt.identity, got)
		}
		if f.Action != "kms:CreateKey" {
			t.Error("LocksOut changed the request")
		}
	}
}
