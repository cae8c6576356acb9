package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"cmkd/daemon/policy/templates"
)

// arns are the names of the tables.
var arns = map[string]string{
	"alice": "arn:aws:iam::111122223333:user/alice", "bob": "arn:aws:iam::111122223333:user/bob",
	"ALICE": "arn:aws:iam::111122223333:user/Alice",
	"app":   "arn:aws:iam::111122223333:role/app", "ops": "arn:aws:iam::111122223333:group/ops",
	"sess":  "arn:aws:sts::111122223333:assumed-role/app/one",
	"sess2": "arn:aws:sts::111122223333:assumed-role/app/two",
	"root":  rootARN, "account": account, "ec2": "ec2.amazonaws.com", "rds": "rds.amazonaws.com",
	"eve": "arn:aws:iam::444455556666:user/eve", "eveaccount": "arn:aws:iam::444455556666:root", "everyone": "*",
	"key": keyARN, "other": "arn:aws:kms:us-east-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321",
	"alias": "arn:aws:kms:us-east-1:111122223333:alias/app",
}

func arnOf(name string) string {
	if arn, ok := arns[name]; ok {
		return arn
	}
	return name
}

// caller makes the principal of a name.
func caller(tb testing.TB, name string) Principal {
	tb.Helper()
	p := Principal{ARN: arnOf(name), AccountID: account}
	switch name {
	case "alice":
		p.UserName, p.Groups = "alice", []string{arns["ops"]}
	case "bob":
		p.UserName = "bob"
	case "app":
		p.Type = Role
	case "sess", "sess2":
		p.Type, p.ARN, p.SessionARN = Role, arns["app"], arns[name]
	case "root":
		p.Type = Root
	case "ec2", "rds":
		p.Type, p.AccountID = Service, ""
	case "eve":
		p.AccountID, p.UserName = foreign, "eve"
	case "eveaccount":
		p.Type, p.AccountID = Root, foreign
	default:
		tb.Fatalf("no caller %q", name)
	}
	return p
}

// document writes the policy that a table abbreviates, "" for "-".
func documentOf(tb testing.TB, short string, kind Kind) string {
	tb.Helper()
	switch short {
	case "-":
		return ""
	case "CONSOLE":
		return templates.KeyPolicyFor(account, []string{arns["bob"]}, []string{arns["alice"]}, templates.UseSymmetricEncryption)
	}
	var statements []object
	for _, text := range strings.Split(short, " ; ") {
		s := object{}
		text, condition, hasCondition := strings.Cut(text, " {")
		if hasCondition {
			s["Condition"] = json.RawMessage("{" + condition)
		}
		words := strings.Split(text, " ")
		s["Effect"], words = words[0], words[1:]
		if kind == KeyPolicy {
			name, ids := elementOf("Principal", words[0])
			s[name] = principalsOf(ids)
			words = words[1:]
		}
		name, actions := elementOf("Action", words[0])
		for i, a := range actions {
			if a != "*" && !strings.Contains(a, ":") {
				actions[i] = "kms:" + a
			}
		}
		s[name] = actions
		if words[1] != "-" {
			name, resources := elementOf("Resource", words[1])
			for i := range resources {
				resources[i] = arnOf(resources[i])
			}
			s[name] = resources
		}
		statements = append(statements, s)
	}
	b, err := json.Marshal(object{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// elementOf splits a word such as "!a,b" into "NotX" and [a b].
func elementOf(name, word string) (string, []string) {
	if rest, not := strings.CutPrefix(word, "!"); not {
		name, word = "Not"+name, rest
	}
	if strings.Contains(word, "${") {
		return name, []string{word}
	}
	return name, strings.Split(word, ",")
}

func principalsOf(names []string) any {
	if names[0] == "*" {
		return "*"
	}
	ids := map[string][]string{}
	for _, name := range names {
		kind := "AWS"
		if arn := arnOf(name); strings.HasSuffix(arn, ".amazonaws.com") {
			kind = "Service"
		}
		ids[kind] = append(ids[kind], arnOf(name))
	}
	return ids
}

// outcome spells a decision as the tables do.
func outcome(d Decision) string {
	source := [...]string{"key", "identity", "grant", "account"}[d.Source]
	switch {
	case d.Allowed:
		return "allow:" + source
	case d.Explicit:
		return "deny:" + source
	default:
		return "none:" + source
	}
}

func identityList(tb testing.TB, short string) []string {
	tb.Helper()
	if short == "-" {
		return nil
	}
	return []string{documentOf(tb, short, IdentityPolicy)}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	for _, r := range table(t, "testdata/decisions.txt", 7) {
		f := question(t, caller(t, r.fields[1]), "kms:"+r.fields[2], arnOf(r.fields[3]), r.fields[6])
		d := agree(t, f, documentOf(t, r.fields[4], KeyPolicy), identityList(t, r.fields[5]), nil)
		if got := outcome(d); got != r.fields[0] {
			t.Errorf("%s: %s, want %s: %v (%s)", r.line, got, strings.Join(r.fields, "\t"), d, r.page)
		}
	}
}
