package lifecycle

import (
	"context"
	"strings"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// GenerateKey makes the first version of the key in the token. finish is the rest of
// the transaction that stores the key's row.
func (s *Lifecycle) GenerateKey(ctx context.Context, c *journal.Call, b keyring.Backend, row *store.Key, finish func(tx *store.Tx) error) error {
	version := keyring.NewVersion(row.ID, 1, s.Now())
	intent := &store.Intent{
		CKAID: version.CKAID, Action: "create", Region: row.Region, KeyID: row.ID, Version: 1,
		Token: row.Token, Spec: row.Spec, Usage: row.Usage, Created: s.Now(),
	}
	_, err := s.Generate(ctx, c, b, intent, func(tx *store.Tx, made *backends.CreateKeyAnswer) error {
		row.PublicKey = made.PublicKey
		if err := tx.PutVersion(version); err != nil {
			return err
		}
		if err := s.PutNewKey(tx, row); err != nil {
			return err
		}
		return finish(tx)
	})
	return err
}

// PutNewKey stores the row of a new key, within the quota, and if its custom key
// store is still there.
func (s *Lifecycle) PutNewKey(tx *store.Tx, row *store.Key) error {
	if row.CustomKeyStoreID != "" {
		if _, err := s.StoreForKey(tx, row); err != nil {
			return err
		}
	}
	if n := tx.KeyCount(row.Region); n >= s.MaxKeys {
		return kmsapi.Errorf(kmsapi.CodeLimitExceededException,
			"Key quota for this account in this region is %d but the current usage is %d.", s.MaxKeys, n)
	}
	return tx.PutKey(row)
}

func ErrStoreNotFound(id string) error {
	return kmsapi.Errorf(kmsapi.CodeCustomKeyStoreNotFoundException, "Custom key store %s is not found.", id)
}

func ErrStoreState(row *store.CustomKeyStore, hint string) error {
	text := "Custom key store " + row.ID + " is " + string(row.ConnectionState) + ". " + hint
	return kmsapi.Errorf(kmsapi.CodeCustomKeyStoreInvalidStateException, "%s", strings.TrimSpace(text))
}

// StoreForKey finds the custom key store that a new key is to live in.
func (s *Lifecycle) StoreForKey(view journal.Reader, key *store.Key) (*store.CustomKeyStore, error) {
	row, ok := view.CustomKeyStore(key.Region, key.CustomKeyStoreID)
	if !ok {
		return nil, ErrStoreNotFound(key.CustomKeyStoreID)
	}
	if row.ConnectionState != kmsapi.ConnectionStateTypeConnected || !s.Router.Available(row.Token, backends.SymmetricDefault) {
		return nil, ErrStoreState(row, "Connect it first.")
	}
	return row, nil
}
