package access

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/daemon/trust"
)

const (
	benchAccount = "111122223333"
	benchUser    = "arn:aws:iam::" + benchAccount + ":user/alice"
	benchKeyID   = "1234abcd-12ab-34cd-56ef-1234567890ab"
)

// BenchmarkAuthorise measures the decision about one Encrypt: by the last of a
// number of statements of the key policy, beside grants for others; and, where
// the policy leaves the caller out, by the last of the caller's own grants.
func BenchmarkAuthorise(b *testing.B) {
	for _, statements := range []int{1, 10, 100} {
		for _, grants := range []int{0, 10_000} {
			b.Run(fmt.Sprintf("statements=%d/grants=%d", statements, grants), func(b *testing.B) {
				benchmarkAuthorise(b, benchPolicy(statements, benchUser), grants, func(i int) string {
					return fmt.Sprintf("arn:aws:iam::%s:user/u%d", benchAccount, i)
				})
			})
		}
	}
	other := benchPolicy(1, "arn:aws:iam::"+benchAccount+":user/bob")
	b.Run("by-grant/grants=1", func(b *testing.B) {
		benchmarkAuthorise(b, other, 1, func(int) string { return benchUser })
	})
	b.Run("by-grant/grants=10000,own=1", func(b *testing.B) {
		benchmarkAuthorise(b, other, 10_000, func(i int) string {
			if i == 9_999 {
				return benchUser
			}
			return fmt.Sprintf("arn:aws:iam::%s:user/u%d", benchAccount, i)
		})
	})
	b.Run("by-grant/grants=10000,own=10000", func(b *testing.B) {
		benchmarkAuthorise(b, other, 10_000, func(int) string { return benchUser })
	})
}

// benchPolicy is a key policy of n statements, each for another role, with a
// condition in every third; the last one is for user.
func benchPolicy(n int, user string) string {
	statements := make([]string, n)
	for i := range statements {
		condition := ""
		if i%3 == 0 {
			condition = `, "Condition": {"StringEquals": {"kms:EncryptionContext:Department": "IT"}}`
		}
		statements[i] = fmt.Sprintf(`{"Sid": "s%d", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%s:role/r%d"},
			"Action": ["kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"], "Resource": "*"%s}`, i, benchAccount, i, condition)
	}
	statements[n-1] = fmt.Sprintf(`{"Effect": "Allow", "Principal": {"AWS": "%s"}, "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}`, user)
	return `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ",") + `]}`
}

// benchmarkAuthorise has alice encrypt, with a key that has a policy and a
// number of grants, of which only the last allows her context.
func benchmarkAuthorise(b *testing.B, document string, grants int, grantee func(i int) string) {
	db := storetest.NewStore(b)
	row := &store.Key{
		Region: "us-east-1", ID: benchKeyID, Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT",
		Origin: "AWS_KMS", Manager: "CUSTOMER", State: "Enabled", Token: "main", Created: time.Now(), Policy: document,
	}
	err := db.Update(b.Context(), func(tx *store.Tx) error {
		if err := tx.PutKey(row); err != nil {
			return err
		}
		for i := range grants {
			department := "IT"
			if i < grants-1 {
				department = fmt.Sprint(i)
			}
			if err := tx.PutGrant(&store.Grant{
				Region: row.Region, KeyID: row.ID, ID: fmt.Sprintf("%064x", i), Grantee: grantee(i), Issuer: benchUser,
				Operations: []string{"Encrypt", "Decrypt"}, ContextSubset: map[string]string{"Department": department}, Created: row.Created,
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	j := journal.New(journal.Config{
		Account: benchAccount, Region: row.Region, Store: db, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	s := New(trust.New(keyring.New(j, "main", nil, nil)), nil)
	caller := journal.Caller{Principal: policy.Principal{Type: policy.User, ARN: benchUser, AccountID: benchAccount, UserName: "alice"}}
	c := &journal.Call{Caller: caller, Op: keys.ActionOf("Encrypt"), Region: row.Region, View: db.View()}
	d := &Demand{
		KeyID: row.ID, Context: map[string]string{"Department": "IT"},
		Conditions: []Condition{Says("kms:EncryptionAlgorithm", keys.SymmetricDefault)},
	}
	k := &Key{Key: row, ARN: s.KeyARN(row.Region, row.ID), View: c.View}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.authorise(c, d, k, ""); err != nil {
			b.Fatal(err)
		}
	}
}
