package policy

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// grantsOf makes the grants that a table abbreviates, nil for "-".
func grantsOf(tb testing.TB, short string) (grants []*Grant) {
	tb.Helper()
	if short == "-" {
		return nil
	}
	for i, text := range strings.Split(short, " ; ") {
		words := strings.Split(text, " ")
		g := &Grant{
			ID: fmt.Sprintf("grant-%d", i), Grantee: arnOf(words[0]),
			Operations: operations(tb, strings.Split(words[1], ",")...),
		}
		for _, word := range words[2:] {
			switch word[0] {
			case '=':
				g.ContextEquals = constraintOf(word[1:])
			case '<':
				g.ContextSubset = constraintOf(word[1:])
			case '@':
				g.SourceARN = word[1:]
			case '~':
				g.RetiringPrincipal = arnOf(word[1:])
			default:
				tb.Fatalf("grant %q", text)
			}
		}
		grants = append(grants, g)
	}
	return grants
}

func constraintOf(text string) Constraint {
	context := map[string]string{}
	for _, pair := range strings.Split(text, ",") {
		if pair != "" {
			key, value, _ := strings.Cut(pair, ":")
			context[key] = value
		}
	}
	return NewConstraint(context)
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for _, r := range table(t, "testdata/grants.txt", 7) {
		f := question(t, caller(t, r.fields[1]), "kms:"+r.fields[2], keyARN, r.fields[6])
		if child := grantsOf(t, r.fields[5]); child != nil {
			f.NewGrant = child[0]
		}
		keyShort, identityShort, _ := strings.Cut(r.fields[3], " / ")
		key, identity := documentOf(t, keyShort, KeyPolicy), identityList(t, identityShort)
		grants := grantsOf(t, r.fields[4])

		var d Decision
		if f.Action == "kms:RetireGrant" {
			var documents []*Document
			for _, text := range identity {
				documents = append(documents, mustParse(t, text, IdentityPolicy))
			}
			d = EvaluateRetire(&f.Request, grants[0], mustParse(t, key, KeyPolicy), documents)
			if got := DecideRetire(&f.Request, grants[0], mustParse(t, key, KeyPolicy), documents); got != d && (d.Source != KeyPolicySource || got.Allowed) {
				t.Errorf("%s: DecideRetire says %v, EvaluateRetire %v", r.line, got, d)
			}
		} else {
			d = agree(t, f, key, identity, grants)
		}
		if got := outcome(d); got != r.fields[0] {
			t.Errorf("%s: %s, want %s: %v (%s)", r.line, got, strings.Join(r.fields, "\t"), d, r.page)
		}
	}
}

// TestDelegationNeverLoosens follows chains of grants made by right of grants:
// whatever the last one permits, the first one permitted.
func TestDelegationNeverLoosens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		chain := []*Grant{drawGrant(t, true)}
		for range rapid.IntRange(1, 4).Draw(t, "length") {
			if next := drawGrant(t, true); next.Within(chain[len(chain)-1]) {
				chain = append(chain, next)
			}
		}
		first, last := chain[0], chain[len(chain)-1]
		if !noLooser(last, first) {
			t.Fatalf("%+v allows more than %+v", last, first)
		}
		if !first.Within(first) {
			t.Fatalf("%+v is not within itself", first)
		}
	})
}
