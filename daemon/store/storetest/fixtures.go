package storetest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"cmkd/daemon/store"
)

// Region is where the keys of the sample are.
const Region = "us-east-1"

// Created is when everything in the sample was made.
var Created = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// Update makes a change that must succeed.
func Update(t testing.TB, s *store.Store, f func(tx *store.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// Key is the sample's key with that number.
func Key(i int) *store.Key {
	return &store.Key{
		Region: Region, ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i),
		Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", Origin: "AWS_KMS", Manager: "CUSTOMER",
		State: "Enabled", Token: "main", Created: Created, Creator: "arn:aws:iam::111122223333:root",
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
			`"Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}`,
		Tags: []store.Tag{{Key: "a", Value: "b"}, {Key: "Zoë"}},
	}
}

// Version is the first version of the key.
func Version(i int) *store.Version {
	return &store.Version{
		KeyID: Key(i).ID, Number: 1, CKAID: fmt.Appendf(nil, "%016x", i),
		MaterialID: fmt.Sprintf("%064x", i), State: "CURRENT", Created: Created,
	}
}

// Grant is a grant on the key with the number 1.
func Grant(i int) *store.Grant {
	return &store.Grant{
		Region: Region, KeyID: Key(1).ID, ID: fmt.Sprintf("%064x", i),
		Grantee: fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", i%3), Retiring: "arn:aws:iam::111122223333:user/r",
		Name: fmt.Sprintf("n%d", i%2), Issuer: "arn:aws:iam::111122223333:root", Operations: []string{"Decrypt"},
		ContextSubset: map[string]string{"b": "2", "a": "1"}, Created: Created,
	}
}

// Sample stores one row of each kind at least.
func Sample(tx *store.Tx) error {
	replica := Key(1)
	replica.Region, replica.PrimaryRegion = "eu-west-1", Region
	old := Version(2)
	old.State, old.MaterialID = "NON_CURRENT", ""
	next := Version(2)
	next.Number, next.CKAID = 2, []byte("the second of it")
	return errors.Join(
		tx.PutKey(Key(1)), tx.PutKey(replica), tx.PutKey(Key(2)),
		tx.PutVersion(Version(1)), tx.PutVersion(old), tx.PutVersion(next),
		tx.PutAlias(&store.Alias{Region: Region, Name: "alias/b", KeyID: Key(1).ID, Created: Created}),
		tx.PutAlias(&store.Alias{Region: Region, Name: "alias/a", KeyID: Key(1).ID, Created: Created}),
		tx.PutGrant(Grant(1)), tx.PutGrant(Grant(2)), tx.PutGrant(Grant(4)),
		tx.PutIntent(&store.Intent{CKAID: []byte{0, 1}, Action: "create", KeyID: Key(1).ID, Token: "main"}),
		tx.PutSystemKey(&store.SystemKey{Token: "main", Purpose: "wrapping", Version: 10, CKAID: []byte{10}}),
		tx.PutSystemKey(&store.SystemKey{Token: "main", Purpose: "wrapping", Version: 9, CKAID: []byte{9}}),
		tx.PutImportParameters(&store.ImportParameters{Region: Region, KeyID: Key(2).ID, TokenHash: []byte{0xff, 0}}),
		tx.PutCustomKeyStore(&store.CustomKeyStore{Region: Region, ID: "cks-1", Name: "n", Token: "second"}),
		tx.PutUsage(&store.Usage{Region: Region, KeyID: Key(1).ID, Operation: "Encrypt", Time: Created}),
		tx.PutSetting(&store.Setting{Name: "account", Value: "111122223333"}),
	)
}

// Sealer authenticates heads with a key in memory, or fails with Err.
type Sealer struct{ Err error }

// MAC authenticates a message.
func (h Sealer) MAC(message []byte) []byte {
	m := hmac.New(sha256.New, []byte("key"))
	m.Write(message)
	return m.Sum(nil)
}

// Verify implements [store.Sealer].
func (h Sealer) Verify(_ context.Context, _, _ *store.View, found *store.Sealed) error {
	if h.Err != nil {
		return h.Err
	}
	if !hmac.Equal(h.MAC(found.Message()), found.MAC) {
		return store.ErrChanged
	}
	return nil
}

// Seal implements [store.Sealer].
func (h Sealer) Seal(_ context.Context, _ *store.View, head *store.Head) ([]byte, error) {
	if h.Err != nil {
		return nil, h.Err
	}
	head.Time = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	head.Lineage, head.Epoch = "lineage", 1
	message, err := head.Message()
	return h.MAC(message), err
}
