package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cmkd/daemon/policy/templates"
)

// likeReference matches a pattern of text, * and ? by the table of all pairs of
// their beginnings.
func likeReference(pattern, value string) bool {
	v := []rune(value)
	row := make([]bool, len(v)+1) // whether what is done of the pattern matches value[:i]
	row[0] = true
	for _, c := range pattern {
		next := make([]bool, len(v)+1)
		for i := range next {
			switch {
			case c == '*':
				next[i] = row[i] || i > 0 && next[i-1]
			case i > 0:
				next[i] = row[i-1] && (c == '?' || c == v[i-1])
			}
		}
		row = next
	}
	return row[len(v)]
}

func matches(t testing.TB, pattern, value string) bool {
	t.Helper()
	p, err := compilePattern(pattern, true, false)
	if err != nil {
		t.Fatal(err)
	}
	b := newBudget()
	got := p.matchLiteral(&b, value)
	if b.spent {
		t.Errorf("%d bytes of pattern and %d of value used up the budget", len(pattern), len(value))
	}
	return got
}

func TestMatch(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	letters := []rune("aab?*äß€𝄞")
	word := func(n int, letters []rune) string {
		var b strings.Builder
		for range random.IntN(n) {
			b.WriteRune(letters[random.IntN(len(letters))])
		}
		return b.String()
	}
	hits := 0
	for range 200_000 {
		pattern, value := word(9, letters), word(9, []rune("aaabä€𝄞"))
		want := likeReference(pattern, value)
		if got := matches(t, pattern, value); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, value, got, want)
		}
		if want {
			hits++
		}
	}
	if hits < 5_000 {
		t.Errorf("only %d of the pairs match", hits)
	}
	// Long ones, of which most are found by findInParallel.
	for range 300 {
		piece := strings.Repeat(word(4, []rune("ab?"))+"a", 1+random.IntN(60)) + word(3, []rune("ab"))
		pattern, value := "*"+piece+"*", strings.Repeat(word(5, []rune("aaab"))+"a", 200)+"b"
		if got, want := matches(t, pattern, value), likeReference(pattern, value); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, value, got, want)
		}
	}
}

// TestFindInParallel: it finds what find does, whatever is tried first.
func TestFindInParallel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, value string
		want           int
	}{
		{"a", "bab", 2},
		{"a?c", "abbcabc", 7},
		{"ä?€", "xä𝄞€y", 1 + 2 + 4 + 3},
		{"a?c", "ac", -1},
		{strings.Repeat("a?", 70) + "b", strings.Repeat("a", 500) + "b", 501},
		{strings.Repeat("a", 64), strings.Repeat("a", 64), 64},
		{strings.Repeat("a", 65), strings.Repeat("a", 64), -1},
	} {
		p, err := compilePattern(tt.pattern, true, false)
		if err != nil {
			t.Fatal(err)
		}
		b := newBudget()
		if got := findInParallel(&b, p.parts, tt.value); got != tt.want {
			t.Errorf("%q in %q: %d, want %d", tt.pattern, tt.value, got, tt.want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("*a?b*", "xxaxbxx")
	f.Add("?*?**", "ä")
	f.Add("*a?a?a?b*c", strings.Repeat("a", 100))
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(value) || len(pattern) > 1000 || len(value) > 1000 {
			return // JSON has nothing else
		}
		if got, want := matches(t, pattern, value), likeReference(pattern, value); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, value, got, want)
		}
	})
}

// dear are policies of up to 32 KiB and encryption contexts of up to 8,192
// characters that are made to be slow together.
func dear(t testing.TB) []dearCase {
	t.Helper()
	const context, room = 8192, MaxSize - 400
	list := func(item func(i int) string) string {
		var b strings.Builder
		for i := 0; ; i++ {
			text := fmt.Sprintf("%q,", item(i))
			if b.Len()+len(text) > room {
				return "[" + strings.TrimSuffix(b.String(), ",") + "]"
			}
			b.WriteString(text)
		}
	}
	many := map[string]string{} // of one or two characters
	for i := 0; len(many) < context/3; i++ {
		many[string(rune(0x100+i))] = "x"
	}
	one := func(value string) map[string]string { return map[string]string{"a": value} }
	halves := map[string]string{"a": strings.Repeat("a", context/2), "b": strings.Repeat("a", context/2-10)}
	as := strings.Repeat("a", context)
	variables := func(form string) string {
		return list(func(i int) string { return fmt.Sprintf(form, "${kms:EncryptionContext:b}", i) })
	}
	value := func(operator, values string) string {
		return fmt.Sprintf(`{%q: {"kms:EncryptionContext:a": %s}}`, operator, values)
	}
	keys := func(operator, values string) string {
		return fmt.Sprintf(`{%q: {"kms:EncryptionContextKeys": %s}}`, operator, values)
	}
	q := func(s string) string { return fmt.Sprintf("%q", s) }
	number := func(i int) string { return fmt.Sprint(i) }
	return []dearCase{
		{"a star and marks", value("StringLike", q("*"+strings.Repeat("?", 15_000))), one(as), false},
		{"marks and stars", value("StringLike", q(strings.Repeat("?*", 8000)+"b")), one(as), false},
		{"half of each", value("StringLike", q("*"+strings.Repeat("a?", context/4)+"b*")), one(as), false},
		{"half a star", value("StringLike", q("*"+strings.Repeat("a", context/2)+"?b*")), one(as), false},
		{"pieces", value("StringLike", q(strings.Repeat("*a?a?b", 5000))), one(as), false},
		{"stars between", value("StringLike", q(strings.Repeat("a*", 8000)+"b")), one(as), false},
		{"many pieces to find", value("StringLike", list(func(int) string { return "*a?b*" })), one(as), true},
		{"many ends", value("StringNotLike", list(func(i int) string { return fmt.Sprintf("*a?a%x", i) })), one(as), false},
		{"many folded", value("StringEqualsIgnoreCase", list(number)), one(as), false},
		{"many numbers", value("NumericEquals", list(number)), one(strings.Repeat("1", context)), true},
		{"many dates", value("DateEquals", list(number)), one("2020-01-01T00:00:00." + as), false},
		{"many addresses", value("IpAddress", list(func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/256, i%256) })), one(as), true},
		{"many ARNs", value("ArnLike", list(func(int) string { return "arn:*:a*:*:*:*a?b*" })), one("arn:a:a:a:a:" + as), true},
		{"variables in a row", value("StringLike", q("*"+strings.Repeat("${kms:EncryptionContext:b}", 1100))), halves, false},
		{"a variable in each", value("StringLike", variables("*%s?x%x*")), halves, true},
		{"a variable twice", value("StringLike", variables("*%[1]s?%[1]s%xb*")), map[string]string{"a": strings.Repeat("a", 6000), "b": strings.Repeat("a", 2000)}, true},
		{"variables that are equal", value("StringEquals", variables("%s%x")), halves, false},
		{"keys and names", keys("ForAnyValue:StringEquals", list(number)), many, true},
		{"keys and patterns", keys("ForAnyValue:StringLike", list(func(i int) string { return fmt.Sprintf("*%x?", i) })), many, true},
		{"keys and patterns, all", keys("ForAllValues:StringNotLike", list(func(i int) string { return fmt.Sprintf("*%x?", i) })), many, true},
		{"keys and variables", keys("ForAllValues:StringNotLike", variables("%s*%x")), many, true},
		{"many keys asked for", "{" + strings.Trim(func() string {
			var b strings.Builder
			b.WriteString(`"StringNotEquals": {`)
			for i := 0; b.Len() < room-100; i++ {
				fmt.Fprintf(&b, `"kms:EncryptionContext:%d": "x",`, i)
			}
			return strings.TrimSuffix(b.String(), ",") + "}"
		}(), " ") + "}", many, true},
	}
}

type dearCase struct {
	name      string
	condition string
	context   map[string]string
	// given up: the evaluation takes more than its budget.
	givenUp bool
}

func (c *dearCase) policy() string {
	return `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"},` +
		`{"Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt", "Resource": "*", "Condition": ` + c.condition + `}]}`
}

func (c *dearCase) request() *Request {
	return &Request{
		Principal: alice(), Action: "kms:Encrypt", Resource: keyARN, ResourceAccount: account, Now: noon, EncryptionContext: c.context,
	}
}

// TestCostOfEvaluation: whatever a policy of 32 KiB and an encryption context of
// 8,192 characters say, an evaluation is decided rightly, or given up and the
// request refused, within bounds.
func TestCostOfEvaluation(t *testing.T) {
	t.Parallel()
	for _, c := range dear(t) {
		text := c.policy()
		if len(text) > MaxSize {
			t.Errorf("%s: a policy of %d bytes", c.name, len(text))
		}
		key := mustParse(t, text, KeyPolicy)
		r := c.request()
		e := newEvaluation(r)
		start := time.Now()
		d := e.decide(key, nil, nil)
		took := time.Since(start)
		left := e.budget.left
		e.close()
		if d.TooCostly && d.Allowed {
			t.Errorf("%s: %+v with %d steps left", c.name, d, left)
		}
		if d.TooCostly != c.givenUp {
			t.Errorf("%s: given up %v, with %d steps left", c.name, d.TooCostly, left)
		}
		// Far beyond what the slowest machine needs, and short of what there was.
		if took > 2*time.Second {
			t.Errorf("%s: %s", c.name, took)
		}
		if d.TooCostly && !strings.Contains(d.AccessDenied(r), "too costly to evaluate") {
			t.Errorf("%s: %s", c.name, d.AccessDenied(r))
		}
	}
}

// TestDenyCostsStrangersNothing: a hundred Deny statements on a long encryption
// context are not looked at for somebody whom nothing allows, so that the time of
// the refusal does not tell of them. Retiring a grant is the same.
func TestDenyCostsStrangersNothing(t *testing.T) {
	t.Parallel()
	deny := strings.Repeat(`{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition":`+
		` {"ForAnyValue:StringLike": {"kms:EncryptionContextKeys": ["*x*y*", "*z*"]}}},`, 100)
	key := mustParse(t, `{"Version": "2012-10-17", "Statement": [`+deny+
		`{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/bob"}, "Action": "kms:*", "Resource": "*"}]}`, KeyPolicy)
	r := &Request{Principal: alice(), Action: "kms:Encrypt", Resource: keyARN, ResourceAccount: account, Now: noon, EncryptionContext: map[string]string{}}
	for i := range 200 {
		r.EncryptionContext[fmt.Sprintf("name-%d", i)] = "v"
	}
	g := &Grant{ID: "g", Grantee: "arn:aws:iam::111122223333:user/bob", Operations: operations(t, "Encrypt")}
	steps := func(decide func(e *evaluation) Decision) int {
		e := newEvaluation(r)
		defer e.close()
		if d := decide(e); d.Allowed {
			t.Errorf("%+v", d)
		}
		return maxSteps - e.budget.left
	}
	for name, decide := range map[string]func(e *evaluation) Decision{
		"call":   func(e *evaluation) Decision { return e.decideInOrder(key, nil, nil) },
		"retire": func(e *evaluation) Decision { return e.decideRetire(g, key, nil) },
	} {
		full := steps(decide)
		first := steps(func(e *evaluation) Decision {
			return e.allowFirst(key, func() Decision { return decide(e) })
		})
		if first > 10 || full < 10_000 {
			t.Errorf("%s: %d steps, %d with the Deny statements", name, first, full)
		}
	}
	// Whom something allows the Deny still refuses, and names itself.
	r.Principal.ARN = "arn:aws:iam::111122223333:user/bob"
	r.EncryptionContext["xy"] = "v"
	if d := Decide(r, key, nil, nil); d.Allowed || !d.Explicit || d.Statement != 0 {
		t.Errorf("%+v", d)
	}
}

func BenchmarkDearest(b *testing.B) {
	for _, c := range dear(b) {
		key, r := mustParse(b, c.policy(), KeyPolicy), c.request()
		b.Run(strings.ReplaceAll(c.name, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				Evaluate(r, key, nil, nil)
			}
		})
	}
}

// TestCostOfGrants: many grants are within the budget.
func TestCostOfGrants(t *testing.T) {
	t.Parallel()
	r := Request{Principal: alice(), Action: "kms:Encrypt", Resource: keyARN, ResourceAccount: account, Now: noon, EncryptionContext: map[string]string{"a": "b"}}
	grants := slices.Repeat([]*Grant{{ID: "other", Grantee: r.Principal.ARN, Operations: operations(t, "Decrypt")}}, 50_000)
	grants = append(grants, &Grant{ID: "this", Grantee: r.Principal.ARN, Operations: operations(t, "Encrypt")})
	if d := Evaluate(&r, mustParse(t, templates.DefaultKeyPolicy(account), KeyPolicy), nil, grants); d.GrantID != "this" {
		t.Errorf("%+v", d)
	}
}

// TestFindStopsWithItsBudget: trying place after place ends when the budget does,
// however little there was to begin with.
func TestFindStopsWithItsBudget(t *testing.T) {
	t.Parallel()
	parts := []part{{kind: partText, text: "a"}, {kind: partText, text: "b"}}
	value := strings.Repeat("a", 1000) + "b"
	b := newBudget()
	if end := find(&b, parts, value); end != len(value) || b.spent {
		t.Errorf("with a budget: %d, spent %t", end, b.spent)
	}
	b = budget{left: len(value)/bytesPerStep + 10}
	if end := find(&b, parts, value); end != -1 || !b.spent {
		t.Errorf("without: %d, spent %t", end, b.spent)
	}
}
