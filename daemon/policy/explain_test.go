package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	key := mustParse(t, documentOf(t, "Allow bob * * ; Allow !alice * * ; Allow alice Decrypt * ; Allow alice !Encrypt * ; Allow alice * other ; Allow alice * !key ; Allow alice * - ; "+
		`Allow alice * * {"StringEquals": {"kms:EncryptionContext:Department": "IT"}} ; Allow alice * * {"Bool": {"kms:MultiRegion": "true"}} ; Allow root * *`, KeyPolicy), KeyPolicy)
	identity := mustParse(t, documentOf(t, "Allow Decrypt * ; Allow Encrypt *", IdentityPolicy), IdentityPolicy, WithName("alice.json"))
	f := question(t, caller(t, "alice"), "kms:Encrypt", keyARN, "ec:Department=very-secret")
	trace := Explain(&f.Request, key, []*Document{identity}, nil)
	want := []string{
		"0 false Principal does not name the caller",
		"1 false NotPrincipal excepts the caller",
		"2 false Action does not match",
		"3 false NotAction excepts the action",
		"4 false Resource does not match",
		"5 false NotResource excepts the resource",
		"6 false the statement has no Resource, so it applies to no key",
		"7 false the condition StringEquals on kms:EncryptionContext:Department is not met",
		"8 false the condition Bool on kms:MultiRegion is not met: the request has no such key",
		"9 true the caller's account is named: identity policies may allow",
		"0 false Action does not match",
		"1 true the statement allows",
	}
	var got []string
	for _, s := range trace.Steps {
		got = append(got, fmt.Sprint(s.Statement, " ", s.Matched, " ", s.Why))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := trace.Steps[len(trace.Steps)-1]; last.Source != IdentityPolicySource || last.Policy != "alice.json" {
		t.Errorf("the last step is %+v", last)
	}
	if outcome(trace.Decision) != "allow:identity" {
		t.Errorf("decision %v", trace.Decision)
	}
	if strings.Contains(fmt.Sprintf("%+v", trace), "very-secret") {
		t.Error("the trace shows an encryption context value")
	}
}

func TestExplainStopsAtDeny(t *testing.T) {
	t.Parallel()
	f := question(t, caller(t, "alice"), "kms:Encrypt", keyARN, "")
	trace := Explain(&f.Request, mustParse(t, documentOf(t, "Deny alice * * ; Allow alice * *", KeyPolicy), KeyPolicy), nil, grantsOf(t, "alice Encrypt"))
	if len(trace.Steps) != 1 || trace.Steps[0].Why != "the statement denies" || trace.Steps[0].Effect != Deny {
		t.Errorf("steps %+v", trace.Steps)
	}
}

func TestExplainGrants(t *testing.T) {
	t.Parallel()
	f := question(t, caller(t, "alice"), "kms:CreateGrant", keyARN, "ec:Department=HR")
	f.NewGrant = grantsOf(t, "bob Decrypt")[0]
	key := mustParse(t, documentOf(t, "Allow bob * *", KeyPolicy), KeyPolicy)
	trace := Explain(&f.Request, key, nil, grantsOf(t, "alice Decrypt ; bob CreateGrant,Decrypt ; alice CreateGrant ; alice CreateGrant,Decrypt"))
	want := []string{
		"the grant does not have the operation", "the grantee is someone else",
		"the new grant would allow more than this one", "the grant allows the operation",
	}
	steps := trace.Steps[1:]
	if len(steps) != len(want) {
		t.Fatalf("steps %+v", steps)
	}
	for i, s := range steps {
		if s.Why != want[i] || s.GrantID != fmt.Sprintf("grant-%d", i) || s.Source != GrantSource {
			t.Errorf("step %d: %+v, want %q", i, s, want[i])
		}
	}
	f.Action = "kms:Decrypt"
	trace = Explain(&f.Request, key, nil, grantsOf(t, "alice Decrypt =Department:IT"))
	if why := trace.Steps[1].Why; why != "the encryption context does not satisfy the grant's constraint" {
		t.Error(why)
	}
}
