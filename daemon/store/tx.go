package store

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/go-json-experiment/json"
)

// Tx is a transaction inside [Store.Update]. Its reads see its own writes.
// What is put is copied: the caller's row may change afterwards. A failed Put
// fails the transaction even if its error is ignored.
type Tx struct {
	View
	changes     []Change
	bookkeeping bool
	head        bool
	err         error // of the first failed Put
	sequence    uint64
	settled     func(ctx context.Context, committed bool) error // may be nil
}

// Sequence is that of the head that the transaction leads to, 0 in a database
// without a head.
func (tx *Tx) Sequence() uint64 { return tx.sequence }

// OnSettle makes the store tell f what became of the transaction, if its commit
// fails with [ErrUnknown], once that is known and before any other is committed.
// An error of f postpones both: f is called again. f must not write to the store.
func (tx *Tx) OnSettle(f func(ctx context.Context, committed bool) error) { tx.settled = f }

// Err is the error of the first Put that failed: it fails the transaction.
func (tx *Tx) Err() error { return tx.err }

// Bookkeeping says that what the transaction writes protects nothing by
// itself, such as the time of last use: [Store.Changes] does not count it.
func (tx *Tx) Bookkeeping() { tx.bookkeeping = true }

// WriteHead has the transaction committed with a new head even if it writes no
// row: the head says more than the rows, such as where the audit trail ends.
func (tx *Tx) WriteHead() { tx.head = true }

// encoding is how a document is written: without zero fields, and the same
// row always as the same bytes.
var encoding = json.JoinOptions(json.OmitZeroStructFields(true), json.Deterministic(true))

// decode reads a document. A field that this version does not know was
// written by a newer one and would be lost with the next write: an error.
func decode[T any](document []byte) (*T, error) {
	row := new(T)
	if err := json.Unmarshal(document, row, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	return row, nil
}

func put[T any](tx *Tx, k *kind[T], row *T) (err error) {
	defer func() {
		if err != nil && tx.err == nil {
			tx.err = err
		}
	}()
	if err := k.check(k.fields(row)); err != nil {
		return err
	}
	document, err := json.Marshal(row, encoding)
	if err != nil {
		return fmt.Errorf("%s: encoding a row: %w", k.table, err)
	}
	// The snapshot holds what opening the store again would read.
	stored, err := decode[T](document)
	if err != nil {
		return fmt.Errorf("%s: encoding a row: %w", k.table, err)
	}
	t := k.of(&tx.View)
	changed, err := t.put(k, stored)
	if err != nil {
		return err
	}
	*t = changed
	tx.changes = append(tx.changes, newChange(k.table, k.primary, k.fields(stored), document))
	return nil
}

// remove deletes the row with the primary key, and reports whether it was there.
func remove[T any](tx *Tx, k *kind[T], primary ...any) bool {
	t := k.of(&tx.View)
	changed, found := t.remove(k, appendKey(nil, primary...))
	if found {
		*t = changed
		tx.changes = append(tx.changes, newChange(k.table, k.primary, primary, nil))
	}
	return found
}

// newChange is a row that is put, or without a document one that is deleted.
func newChange(table string, primary int, fields []any, document []byte) Change {
	for i, f := range fields {
		if n, ok := f.(int); ok {
			fields[i] = int64(n)
		}
	}
	c := Change{Row: Row{Table: table, Name: RowName(fields[:primary]), Columns: fields, Document: document}}
	if document != nil {
		c.Digest = sha256.Sum256(document)
	}
	return c
}

// MissingKeyError says that a row belongs to a key that is not there.
type MissingKeyError struct {
	Table  string // of the row, such as "aliases"
	Region string
	KeyID  string
}

// Error implements error.
func (e *MissingKeyError) Error() string {
	return fmt.Sprintf("%s: no key %s in %s", e.Table, e.KeyID, e.Region)
}

func (tx *Tx) checkKey(table, region, id string) error {
	if _, ok := tx.Key(region, id); ok {
		return nil
	}
	err := &MissingKeyError{Table: table, Region: region, KeyID: id}
	if tx.err == nil {
		tx.err = err
	}
	return err
}

// PutKey adds or replaces a key.
func (tx *Tx) PutKey(k *Key) error { return put(tx, keyKind, k) }

// DeleteKey deletes a key's row in one Region with its aliases, grants and
// last use there. Versions and import parameters name objects in the token:
// they are for the caller to delete once the objects are gone.
func (tx *Tx) DeleteKey(region, id string) bool {
	for a := range tx.AliasesOf(region, id, "") {
		tx.DeleteAlias(region, a.Name)
	}
	for g := range tx.GrantsOf(region, id, "") {
		tx.DeleteGrant(region, id, g.ID)
	}
	tx.DeleteUsage(region, id)
	return remove(tx, keyKind, region, id)
}

// PutVersion adds or replaces a version. A [*ConflictError] says that its
// CKA_ID or key material ID is taken, or that the key has a current version:
// store that one as NON_CURRENT first.
func (tx *Tx) PutVersion(v *Version) error { return put(tx, versionKind, v) }

// DeleteVersion deletes a version of a key.
func (tx *Tx) DeleteVersion(keyID string, number int) bool {
	return remove(tx, versionKind, keyID, number)
}

// PutAlias adds or replaces an alias of a key that is there, else a
// [*MissingKeyError].
func (tx *Tx) PutAlias(a *Alias) error {
	if err := tx.checkKey(aliasKind.table, a.Region, a.KeyID); err != nil {
		return err
	}
	return put(tx, aliasKind, a)
}

// DeleteAlias deletes an alias.
func (tx *Tx) DeleteAlias(region, name string) bool {
	return remove(tx, aliasKind, region, name)
}

// PutGrant adds or replaces a grant on a key that is there, else a
// [*MissingKeyError].
func (tx *Tx) PutGrant(g *Grant) error {
	if err := tx.checkKey(grantKind.table, g.Region, g.KeyID); err != nil {
		return err
	}
	return put(tx, grantKind, g)
}

// DeleteGrant deletes a grant.
func (tx *Tx) DeleteGrant(region, keyID, id string) bool {
	return remove(tx, grantKind, region, keyID, id)
}

// PutUsage stores the last use of a key that is there, else a
// [*MissingKeyError].
func (tx *Tx) PutUsage(u *Usage) error {
	if err := tx.checkKey(usageKind.table, u.Region, u.KeyID); err != nil {
		return err
	}
	return put(tx, usageKind, u)
}

// DeleteUsage forgets the last use of a key.
func (tx *Tx) DeleteUsage(region, keyID string) bool {
	return remove(tx, usageKind, region, keyID)
}

// PutIntent adds or replaces an intent.
func (tx *Tx) PutIntent(i *Intent) error { return put(tx, intentKind, i) }

// DeleteIntent deletes the intent for the object with the CKA_ID.
func (tx *Tx) DeleteIntent(id []byte) bool { return remove(tx, intentKind, id) }

// PutSystemKey adds or replaces one version of a system key.
func (tx *Tx) PutSystemKey(k *SystemKey) error {
	return put(tx, systemKeyKind, k)
}

// DeleteSystemKey deletes one version of a system key.
func (tx *Tx) DeleteSystemKey(token, purpose string, version int) bool {
	return remove(tx, systemKeyKind, token, purpose, version)
}

// PutImportParameters adds or replaces import parameters.
func (tx *Tx) PutImportParameters(p *ImportParameters) error {
	return put(tx, importKind, p)
}

// DeleteImportParameters deletes import parameters by the SHA-256 of their
// import token.
func (tx *Tx) DeleteImportParameters(tokenHash []byte) bool {
	return remove(tx, importKind, tokenHash)
}

// PutCustomKeyStore adds or replaces a custom key store.
func (tx *Tx) PutCustomKeyStore(c *CustomKeyStore) error {
	return put(tx, customKeyStoreKind, c)
}

// DeleteCustomKeyStore deletes a custom key store.
func (tx *Tx) DeleteCustomKeyStore(region, id string) bool {
	return remove(tx, customKeyStoreKind, region, id)
}

// PutSetting adds or replaces a setting.
func (tx *Tx) PutSetting(s *Setting) error { return put(tx, settingKind, s) }

// DeleteSetting deletes a setting.
func (tx *Tx) DeleteSetting(name string) bool {
	return remove(tx, settingKind, name)
}
