package keys

import "testing"

func TestParseARN(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ARN{
		"arn:aws:kms:us-east-1:111122223333:key/k":      {"aws", "kms", "us-east-1", "111122223333", "key/k"},
		"arn:aws:iam::111122223333:root":                {"aws", "iam", "", "111122223333", "root"},
		"arn:aws:kms:us-east-1:111122223333:alias/a:b:": {"aws", "kms", "us-east-1", "111122223333", "alias/a:b:"},
		"arn:::::": {},
	} {
		if got, ok := ParseARN(text); !ok || got != want {
			t.Errorf("%s: %+v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "arn", "arn:", "arn:aws:kms:us-east-1:111122223333", "urn:aws:kms:r:a:x", "alias/a"} {
		if got, ok := ParseARN(text); ok || got != (ARN{}) {
			t.Errorf("%q parses to %+v", text, got)
		}
	}
}

func TestMadeARNs(t *testing.T) {
	t.Parallel()
	const account = "111122223333"
	for want, got := range map[string]string{
		"arn:aws:kms:us-east-1:111122223333:key/k":         KeyARN("us-east-1", account, "k"),
		"arn:aws:kms:us-east-1:111122223333:alias/a":       AliasARN("us-east-1", account, "alias/a"),
		"arn:aws:iam::111122223333:user/u":                 PrincipalARN(account, "user/u"),
		"arn:aws:iam::111122223333:root":                   RootARN(account),
		"arn:aws:sts::111122223333:assumed-role/r/session": SessionARN(account, "assumed-role/r/session"),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if _, ok := ParseARN(got); !ok {
			t.Errorf("%s does not parse", got)
		}
	}
}

func TestIsID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"1234abcd-12ab-34cd-56ef-1234567890ab":     true,
		"1234ABCD-12ab-34cd-56ef-1234567890ab":     true,
		"mrk-1234abcd12ab34cd56ef1234567890ab":     true,
		"mrk-1234abcd12ab34cd56ef1234567890a":      false,
		"1234abcd12ab34cd56ef1234567890ab":         false,
		"":                                         false,
		"1234abcd-12ab-34cd-56ef-1234567890ab\n":   false,
		"x1234abcd-12ab-34cd-56ef-1234567890ab":    false,
		"key/1234abcd-12ab-34cd-56ef-1234567890ab": false,
	} {
		if got := IsID(id); got != want {
			t.Errorf("%q: %t", id, got)
		}
	}
}
