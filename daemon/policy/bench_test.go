package policy

import (
	"fmt"
	"strings"
	"testing"

	"cmkd/daemon/policy/templates"
)

// benchPolicy is a key policy of n statements, each for another role, with a
// condition in every third; the last one allows the caller.
func benchPolicy(n int) string {
	statements := make([]string, n)
	for i := range statements {
		condition := ""
		if i%3 == 0 {
			condition = `, "Condition": {"StringEquals": {"kms:EncryptionContext:Department": "IT"}}`
		}
		statements[i] = fmt.Sprintf(`{"Sid": "s%d", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:role/r%d"},
			"Action": ["kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"], "Resource": "*"%s}`, i, i, condition)
	}
	statements[n-1] = `{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/alice"},
		"Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}`
	return `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ",") + `]}`
}

func BenchmarkEvaluate(b *testing.B) {
	identity := mustParse(b, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "arn:aws:kms:us-east-1:111122223333:key/*"}}`, IdentityPolicy)
	conditions := mustParse(b, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": {
		"StringEquals": {"kms:CallerAccount": "111122223333", "kms:EncryptionContext:Department": "IT"}, "DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}}}`, KeyPolicy)
	request := Request{
		Principal: alice(), Action: "kms:Encrypt", Resource: keyARN, ResourceAccount: account, Now: noon,
		EncryptionContext: map[string]string{"Department": "IT"},
	}
	run := func(name string, key *Document, identity []*Document, grants []*Grant) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d := Evaluate(&request, key, identity, grants); !d.Allowed {
					b.Fatal(d)
				}
			}
		})
	}
	run("default+identity", mustParse(b, templates.DefaultKeyPolicy(account), KeyPolicy), []*Document{identity}, nil)
	run("console", mustParse(b, templates.KeyPolicyFor(account, []string{"arn:aws:iam::111122223333:user/bob"}, []string{"arn:aws:iam::111122223333:user/alice"}, templates.UseSymmetricEncryption), KeyPolicy), nil, nil)
	run("conditions", conditions, nil, nil)
	for _, n := range []int{1, 10, 100} {
		run(fmt.Sprintf("statements=%d", n), mustParse(b, benchPolicy(n), KeyPolicy), nil, nil)
	}
	for _, n := range []int{1, 100, 10_000} {
		grants := make([]*Grant, n)
		for i := range grants {
			grants[i] = &Grant{ID: fmt.Sprint(i), Grantee: request.Principal.ARN, Operations: operations(b, "Encrypt"), ContextSubset: NewConstraint(map[string]string{"Department": fmt.Sprint(i)})}
		}
		grants[n-1].ContextSubset = NewConstraint(request.EncryptionContext)
		run(fmt.Sprintf("grants=%d", n), mustParse(b, templates.DefaultKeyPolicy(account), KeyPolicy), nil, grants)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		text := []byte(benchPolicy(n))
		b.Run(fmt.Sprintf("statements=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(text, KeyPolicy); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
