package policy

import (
	"errors"
	"strings"
	"testing"

	"cmkd/daemon/policy/templates"
)

func kindOf(tb testing.TB, name string) Kind {
	tb.Helper()
	switch name {
	case "key":
		return KeyPolicy
	case "identity":
		return IdentityPolicy
	default:
		tb.Fatalf("no kind %q", name)
		return 0
	}
}

func TestSyntax(t *testing.T) {
	t.Parallel()
	for _, r := range table(t, "testdata/syntax.txt", 3) {
		_, err := Parse([]byte(r.fields[2]), kindOf(t, r.fields[0]))
		got := "ok"
		if err != nil {
			got = err.Error()
			if _, ok := errors.AsType[*SyntaxError](err); !ok {
				t.Errorf("%s: the error is a %T", r.line, err)
			}
		}
		if (r.fields[1] == "ok") != (err == nil) || !strings.Contains(got, r.fields[1]) {
			t.Errorf("%s: %s\n got %s\nwant %s (%s)", r.line, r.fields[2], got, r.fields[1], r.page)
		}
	}
}

func TestSyntaxErrorPlace(t *testing.T) {
	t.Parallel()
	text := "{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [ {\n    \"Sid\": \"é\", \"Effect\": \"Perhaps\"\n  } ]\n}"
	_, err := Parse([]byte(text), KeyPolicy)
	want := SyntaxError{Path: "Statement[0].Effect", Line: 4, Column: 27, Reason: `the Effect must be "Allow" or "Deny"`}
	if got, ok := errors.AsType[*SyntaxError](err); !ok || *got != want {
		t.Errorf("got %#v, want %#v", err, want)
	}
	text = "{\n  \"Statement\": {\"Effect\": \"Allow\",\n   \"Effect\": \"Deny\"}}"
	_, err = Parse([]byte(text), KeyPolicy)
	if got, ok := errors.AsType[*SyntaxError](err); !ok || got.Path != "Statement.Effect" || got.Line != 3 {
		t.Errorf("a duplicate name is reported as %v", err)
	}
	_, err = Parse([]byte("{\"Id\": \"\xff\"}"), KeyPolicy)
	if got, ok := errors.AsType[*SyntaxError](err); !ok || got.Column != 9 || got.Reason != "the policy is not valid UTF-8" {
		t.Errorf("invalid UTF-8 is reported as %v", err)
	}
}

func TestSizeLimit(t *testing.T) {
	t.Parallel()
	policy := templates.DefaultKeyPolicy(account)
	fits := policy + strings.Repeat(" ", MaxSize-len(policy))
	if _, err := Parse([]byte(fits), KeyPolicy); err != nil {
		t.Errorf("%d bytes: %v", len(fits), err)
	}
	for _, text := range []string{fits + " ", strings.Repeat("[", 10<<20)} {
		if _, err := Parse([]byte(text), KeyPolicy); err == nil || !strings.Contains(err.Error(), "at most 32768") {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
}

// FuzzParse: whatever is accepted evaluates, to what the reference says.
func FuzzParse(f *testing.F) {
	for _, file := range []string{"testdata/syntax.txt", "testdata/conditions.txt"} {
		for _, r := range table(f, file, 3) {
			f.Add(r.fields[2], r.fields[0] == "identity")
			f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":`+r.fields[1]+`}}`, false)
		}
	}
	for _, r := range table(f, "testdata/decisions.txt", 7) {
		f.Add(documentOf(f, r.fields[4], KeyPolicy), false)
		f.Add(documentOf(f, r.fields[5], IdentityPolicy), true)
	}
	f.Fuzz(func(t *testing.T, text string, isIdentity bool) {
		kind := KeyPolicy
		if isIdentity {
			kind = IdentityPolicy
		}
		d, err := Parse([]byte(text), kind)
		if err != nil {
			if e, ok := errors.AsType[*SyntaxError](err); !ok || e.Line < 1 || e.Column < 1 || e.Reason == "" {
				t.Fatalf("the error is %#v", err)
			}
			return
		}
		if d.Len() == 0 {
			t.Fatal("a policy without statements")
		}
		for _, name := range []string{"alice", "root", "sess", "ec2"} {
			q := question(t, caller(t, name), "kms:Encrypt", keyARN, "ec:Department=IT | x:k=v | tag:team=red | x:n=1")
			if isIdentity {
				agree(t, q, templates.DefaultKeyPolicy(account), []string{text}, nil)
			} else {
				agree(t, q, text, []string{`{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`}, nil)
			}
		}
	})
}
