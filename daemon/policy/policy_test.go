package policy

import (
	"testing"
	"time"
)

// What the tests have in common: the account and names of AWS's examples.
const (
	account = "111122223333"
	foreign = "444455556666"
	keyARN  = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	rootARN = "arn:aws:iam::111122223333:root"
)

var noon = time.Date(2026, 5, 17, 12, 0, 0, 0, time.UTC)

func alice() Principal {
	return Principal{Type: User, ARN: "arn:aws:iam::111122223333:user/alice", AccountID: account, UserName: "alice"}
}

func mustParse(tb testing.TB, text string, kind Kind, options ...Option) *Document {
	tb.Helper()
	d, err := Parse([]byte(text), kind, options...)
	if err != nil {
		tb.Fatalf("%v\n%s", err, text)
	}
	return d
}

func operations(tb testing.TB, names ...string) GrantOperations {
	tb.Helper()
	set, err := ParseGrantOperations(names)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}
