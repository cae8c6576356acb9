package policy

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Random policies, requests and grants over a vocabulary small enough that they
// often meet.

func pick[T any](t *rapid.T, from ...T) T { return rapid.SampledFrom(from).Draw(t, "pick") }

func chance(t *rapid.T, percent int) bool { return rapid.IntRange(1, 100).Draw(t, "chance") <= percent }

// some draws one to n values, as a string or as a list.
func some(t *rapid.T, n int, from ...string) any {
	values := rapid.SliceOfN(rapid.SampledFrom(from), 1, n).Draw(t, "values")
	if len(values) == 1 && chance(t, 50) {
		return values[0]
	}
	return values
}

var (
	vocabularyKeys = []string{
		"x:k", "X:K", "aws:TagKeys", "kms:EncryptionContext:Department", "kms:EncryptionContext:department", "kms:EncryptionContext:k",
		"kms:EncryptionContextKeys", "aws:PrincipalArn", "aws:username", "aws:PrincipalTag/team", "aws:CurrentTime", "aws:EpochTime",
		"kms:CallerAccount", "aws:PrincipalType", "aws:PrincipalServiceName", "aws:PrincipalIsAWSService", "aws:ResourceAccount", "x:n", "x:ip",
	}
	vocabularyStrings = []string{
		"", "a", "A", "b", "ab", "a*", "*", "?", "*b", "a?*b", "IT", "it", "HR", "Department", "department", "alice", "red", account, foreign,
		"${aws:username}", "${aws:PrincipalTag/team}", "${aws:PrincipalTag/team, 'a'}", "${x:k}", "${*}", "${$}a", "${aws:TagKeys}*", "a${?}",
		"${kms:EncryptionContext:Department}", "User", "Account", "true", "é", "É", "\u212A",
	}
	vocabularyARNs = []string{
		"*", "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:*", "arn:aws:iam::111122223333:user/${aws:username}",
		"arn:*:*:*:${aws:PrincipalAccount}:user/*", "arn:aws:iam::${aws:PrincipalTag/team}:role/a?p", "arn:aws:iam::*:root", "arn:aws:sns:*:*:a:b*",
	}
	vocabularyNumbers  = []string{"0", "-1", "1", "1.0", "01", "1.50", "1.5", "10", "9007199254740993", "9007199254740992", "-0", "+2"}
	vocabularyDates    = []string{"2026", "2026-05", "2026-05-17", "2026-05-17T12:00Z", "2026-05-17T12:00:00Z", "2026-05-17T14:00:00+02:00", "2027", "1779019200", "1779019201", "-5", "1779019200.5", "-5.5"}
	vocabularyNetworks = []string{"10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.1.2.3/31", "2001:db8::1"}
	requestValues      = []string{
		"", "a", "A", "b", "ab", "a*", "*", "IT", "it", "HR", "alice", "red", "1", "1.5", "-1", "10", "9007199254740992", "2026-05-17", "true", "FALSE",
		"10.1.2.3", "11.0.0.1", "2001:db8::1", "::ffff:10.1.2.3", "arn:aws:sns:x:y:a:b:c", "arn:aws:iam::111122223333:user/bob", "é", "k", "\x01",
	}
)

// drawConditions draws a Condition element.
func drawConditions(t *rapid.T) object {
	block := object{}
	for range rapid.IntRange(1, 2).Draw(t, "operators") {
		name := pick(t, slices.Sorted(func(yield func(string) bool) {
			for name := range operators {
				if !yield(name) {
					return
				}
			}
		})...)
		full := name
		if name != "Null" {
			full = pick(t, "", "", "ForAllValues:", "ForAnyValue:") + name + pick(t, "", "", "IfExists")
		}
		keys := object{}
		for range rapid.IntRange(1, 2).Draw(t, "keys") {
			keys[pick(t, vocabularyKeys...)] = drawValues(t, name)
		}
		block[full] = keys
	}
	return block
}

func drawValues(t *rapid.T, operator string) any {
	switch operator[:3] {
	case "Str":
		return some(t, 3, vocabularyStrings...)
	case "Arn":
		return some(t, 2, vocabularyARNs...)
	case "Num":
		return some(t, 2, vocabularyNumbers...)
	case "Dat":
		return some(t, 2, vocabularyDates...)
	case "IpA", "Not":
		return some(t, 2, vocabularyNetworks...)
	case "Bin":
		return some(t, 2, "", "YQ==", "aw==", "AQ==")
	default:
		if chance(t, 50) {
			return chance(t, 50)
		}
		return some(t, 2, "true", "false")
	}
}

// drawPolicy draws the text of a policy.
func drawPolicy(t *rapid.T, kind Kind) string {
	var statements []any
	for range rapid.IntRange(1, 4).Draw(t, "statements") {
		s := object{"Effect": pick(t, "Allow", "Allow", "Deny")}
		if kind == KeyPolicy {
			s[pick(t, "Principal", "Principal", "Principal", "NotPrincipal")] = drawPrincipals(t)
		}
		s[pick(t, "Action", "Action", "Action", "NotAction")] = some(t, 3,
			"*", "kms:*", "kms:Encrypt", "KMS:DECRYPT", "kms:*crypt", "kms:CreateGrant", "kms:?ncrypt", "s3:*", "kms:X*", "kms:Sign")
		if kind == IdentityPolicy || chance(t, 90) {
			s[pick(t, "Resource", "Resource", "Resource", "NotResource")] = some(t, 2,
				"*", "*", keyARN, arns["other"], "arn:aws:kms:*:*:key/*", "arn:aws:kms:us-east-1:111122223333:alias/${aws:username}",
				"arn:aws:kms:us-east-1:111122223333:key/${aws:PrincipalTag/team}*", "arn:aws:kms:us-east-1:111122223333:key/${x:k,'1'}*")
		}
		if chance(t, 60) {
			s["Condition"] = drawConditions(t)
		}
		statements = append(statements, s)
	}
	policy := object{"Statement": statements}
	if version := pick(t, "2012-10-17", "2012-10-17", "2012-10-17", "2008-10-17", ""); version != "" {
		policy["Version"] = version
	}
	text, err := json.Marshal(policy)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func drawPrincipals(t *rapid.T) any {
	if chance(t, 25) {
		return "*"
	}
	ids := object{}
	if chance(t, 90) {
		ids["AWS"] = some(t, 3, arns["alice"], arns["bob"], arns["app"], arns["sess"], arns["ops"], rootARN, account, arns["eve"], arns["eveaccount"], "*")
	}
	if chance(t, 15) || len(ids) == 0 {
		ids["Service"] = some(t, 2, "ec2.amazonaws.com", "rds.amazonaws.com")
	}
	return ids
}

// drawRequest draws a request with its context.
func drawRequest(t *rapid.T, tb testing.TB) *reference {
	p := caller(tb, pick(t, "alice", "alice", "alice", "bob", "app", "sess", "sess2", "root", "ec2", "eve", "eveaccount"))
	f := &reference{values: make(map[string][]string)}
	f.Request = Request{
		Principal: p, Action: "kms:" + pick(t, "Encrypt", "Encrypt", "Decrypt", "Sign", "CreateGrant", "Xyz", "PutKeyPolicy"),
		Resource:        pick(t, keyARN, keyARN, keyARN, arns["other"], arns["alias"], "*"),
		ResourceAccount: pick(t, account, account, account, account, ""), Now: noon,
		EncryptionContext: drawContext(t), Context: mapContext(f.values),
	}
	if chance(t, 40) {
		f.Principal.Tags = map[string]string{pick(t, "team", "Team", "k"): pick(t, requestValues...)}
	}
	for range rapid.IntRange(0, 4).Draw(t, "context") {
		key := pick(t, "x:k", "x:k", "x:n", "x:ip", "aws:tagkeys")
		f.values[key] = append(f.values[key], pick(t, requestValues...))
	}
	return f
}

func drawContext(t *rapid.T) map[string]string {
	context := make(map[string]string)
	for range rapid.IntRange(0, 3).Draw(t, "pairs") {
		context[pick(t, "Department", "department", "k", "\u212A", "Other")] = pick(t, "IT", "it", "HR", "a")
	}
	return context
}

// drawGrant draws a grant; of a consistent one the constraints, if there are
// two, can be satisfied together.
func drawGrant(t *rapid.T, consistent bool) *Grant {
	g := &Grant{ID: "g", Grantee: arnOf(pick(t, "alice", "alice", "app", "sess", "ops", "root", "account", "ec2", "eve"))}
	for _, op := range rapid.SliceOfN(rapid.SampledFrom([]string{"Encrypt", "Decrypt", "Sign", "CreateGrant"}), 1, 4).Draw(t, "operations") {
		g.Operations |= grantOperationNamed(op)
	}
	if chance(t, 30) {
		g.ContextEquals = NewConstraint(drawContext(t))
	}
	if chance(t, 30) && (!consistent || g.ContextEquals == nil) {
		g.ContextSubset = NewConstraint(drawContext(t))
	}
	if chance(t, 10) {
		g.SourceARN = pick(t, "arn:aws:s3:::a", "arn:aws:s3:::b")
	}
	return g
}

// TestAgreesWithReference: the two evaluators decide every request alike.
func TestAgreesWithReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) { compareEvaluators(rt, t) })
}

func compareEvaluators(t *rapid.T, tb testing.TB) {
	f := drawRequest(t, tb)
	key := ""
	if chance(t, 90) {
		key = drawPolicy(t, KeyPolicy)
	}
	var identity []string
	for range rapid.IntRange(0, 2).Draw(t, "policies") {
		identity = append(identity, drawPolicy(t, IdentityPolicy))
	}
	var grants []*Grant
	for range rapid.IntRange(0, 2).Draw(t, "grants") {
		grants = append(grants, drawGrant(t, true))
	}
	if f.Action == "kms:CreateGrant" && chance(t, 80) {
		f.NewGrant = drawGrant(t, true)
	}
	for _, text := range append(identity, key) {
		kind := IdentityPolicy
		if text == key {
			kind = KeyPolicy
		}
		if text == "" {
			continue
		}
		if _, err := Parse([]byte(text), kind); err != nil {
			t.Skip("not a policy: ", err) // two spellings of one condition key, ForAllValues on an encryption context
		}
	}
	agree(tb, f, key, identity, grants)
	if tb.Failed() {
		t.Fatal("the evaluators differ")
	}
}

// FuzzEvaluate is TestAgreesWithReference with the fuzzer choosing.
func FuzzEvaluate(f *testing.F) {
	// A policy takes hundreds of draws of eight bytes each: shorter inputs end
	// before there is anything to compare.
	const seeds, size = 32, 8 << 10
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, seed))
		data := make([]byte, 0, size)
		for len(data) < size {
			data = binary.LittleEndian.AppendUint64(data, random.Uint64())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { compareEvaluators(rt, t) })(t, data)
	})
}
