package policy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// The rules of AWS's documentation as tables in testdata, the page above its
// rows. Every row is also put to the reference evaluator.

// row is one line of a table.
type row struct {
	page   string
	line   string // file:number
	fields []string
}

// table reads a file of rows: "@ page", "# comment", or fields between tabs.
func table(tb testing.TB, file string, fields int) []row {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	var rows []row
	page := ""
	for i, line := range strings.Split(string(text), "\n") {
		place := fmt.Sprintf("%s:%d", file, i+1)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "@ "):
			page = line[2:]
		default:
			f := strings.Split(line, "\t")
			if len(f) != fields || page == "" {
				tb.Fatalf("%s: %d fields, want %d, under a page", place, len(f), fields)
			}
			rows = append(rows, row{page, place, f})
		}
	}
	return rows
}

func TestTablesAreLarge(t *testing.T) {
	t.Parallel()
	n := len(table(t, "testdata/conditions.txt", 3)) + len(table(t, "testdata/decisions.txt", 7)) +
		len(table(t, "testdata/grants.txt", 7)) + len(table(t, "testdata/syntax.txt", 3))
	t.Logf("%d rows", n)
	if n < 300 {
		t.Errorf("%d rows of rules, want at least 300", n)
	}
}

// mapContext is a Context of fixed values; the keys are in lower case.
type mapContext map[string][]string

func (m mapContext) AppendValues(dst []string, key string) []string { return append(dst, m[key]...) }

// question makes a request of a row's context field.
func question(tb testing.TB, p Principal, action, resource, context string) *reference {
	tb.Helper()
	f := &reference{values: make(map[string][]string)}
	f.Request = Request{
		Principal: p, Action: action, Resource: resource, ResourceAccount: account, Now: noon,
		EncryptionContext: make(map[string]string), Context: mapContext(f.values),
	}
	f.Principal.Tags = make(map[string]string)
	for _, pair := range strings.Split(context, " | ") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			tb.Fatalf("context %q has no value", pair)
		}
		if name, ok := strings.CutPrefix(key, "ec:"); ok {
			f.EncryptionContext[name] = value
		} else if name, ok := strings.CutPrefix(key, "tag:"); ok {
			f.Principal.Tags[name] = value
		} else {
			key = strings.ToLower(key)
			f.values[key] = append(f.values[key], value)
		}
	}
	return f
}

// agree checks that the two evaluators say the same.
func agree(tb testing.TB, f *reference, key string, identity []string, grants []*Grant) Decision {
	tb.Helper()
	var keyDocument *Document
	if key != "" {
		keyDocument = mustParse(tb, key, KeyPolicy)
	}
	documents := make([]*Document, len(identity))
	for i, text := range identity {
		documents[i] = mustParse(tb, text, IdentityPolicy, WithName(fmt.Sprintf("identity-%d", i)))
	}
	d := Evaluate(&f.Request, keyDocument, documents, grants)
	allowed, explicit := f.decide(key, identity, grants)
	if d.Allowed != allowed || d.Explicit != explicit {
		tb.Errorf("Evaluate says %v, the reference says allowed=%v explicit=%v\nkey %s\nidentity %s\nrequest %+v",
			d, allowed, explicit, key, identity, f.Request)
	}
	if trace := Explain(&f.Request, keyDocument, documents, grants); trace.Decision != d {
		tb.Errorf("Explain decides %v, Evaluate %v", trace.Decision, d)
	}
	decidesAlike(tb, d, &f.Request, keyDocument, documents, grants)
	return d
}

// decidesAlike checks Decide against Evaluate, which said d: what is allowed is the
// same, for the same reason, and so is what is refused, but for a Deny of the key
// policy where nothing would have allowed anyway.
func decidesAlike(tb testing.TB, d Decision, r *Request, key *Document, identity []*Document, grants []*Grant) {
	tb.Helper()
	got := Decide(r, key, identity, listOf(grants))
	if got == d {
		return
	}
	if got.Allowed || !d.Explicit || d.Source != KeyPolicySource {
		tb.Errorf("Decide says %v, Evaluate %v", got, d)
		return
	}
	if without := Evaluate(r, withoutDeny(key), identity, grants); got != without {
		tb.Errorf("Decide says %v, Evaluate without the Deny statements of the key policy %v", got, without)
	}
}

func withoutDeny(d *Document) *Document {
	if d == nil {
		return nil
	}
	c := *d
	c.statements = slices.DeleteFunc(slices.Clone(d.statements), func(s statement) bool { return s.effect == Deny })
	return &c
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for _, r := range table(t, "testdata/conditions.txt", 3) {
		f := question(t, alice(), "kms:Encrypt", keyARN, r.fields[2])
		statement := func(effect string) string {
			return fmt.Sprintf(`{"Effect": %q, "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": %s}`, effect, r.fields[1])
		}
		allow := `{"Version": "2012-10-17", "Statement": ` + statement("Allow") + `}`
		deny := `{"Version": "2012-10-17", "Statement": [` + statement("Deny") + `, {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}`
		allowed := agree(t, f, allow, nil, nil).Allowed
		denied := agree(t, f, deny, nil, nil).Explicit
		got := map[[2]bool]string{{true, true}: "met", {false, false}: "unmet", {false, true}: "closed", {true, false}: "open"}[[2]bool{allowed, denied}]
		if got != r.fields[0] {
			t.Errorf("%s: %s with %q is %s, want %s (%s)", r.line, r.fields[1], r.fields[2], got, r.fields[0], r.page)
		}
	}
}
