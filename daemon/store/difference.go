package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// Difference is a row that is not what it was at the last commit.
type Difference struct {
	Table string `json:"table"`
	Row   string `json:"row"`    // JSON array of the primary key
	Kind  string `json:"change"` // "changed", "added" or "missing"
}

// Differences are what [Store.Compare] finds.
type Differences struct {
	Rows []Difference // by table and row
	// Root is the hash over the rows as they were, by the digests that the
	// database keeps of them. If an authentic head has the same one, Rows is
	// exactly what was done; else the digests have been tampered with too.
	Root []byte
	Now  []byte // the hash over the rows as they are
}

type rowID struct{ table, name string }

// Compare holds the rows in the file against the digests beside them.
func (s *Store) Compare(ctx context.Context) (*Differences, error) {
	found := &Differences{}
	err := s.exclusively(ctx, func() error {
		if err := s.keepFiles(ctx); err != nil {
			return err
		}
		kept, err := loadDigests(ctx, s.db)
		if err != nil {
			return err
		}
		leaves := make([]leaf, 0, len(kept))
		for id, digest := range kept {
			leaves = append(leaves, leaf{place(id.table, id.name), digest})
		}
		found.Root = newHashes(leaves).root()
		leaves = leaves[:0]
		err = eachRow(ctx, s.db, func(id rowID, document []byte) error {
			digest, known := kept[id]
			delete(kept, id)
			leaves = append(leaves, newLeaf(id.table, id.name, document))
			switch {
			case !known:
				found.Rows = append(found.Rows, Difference{id.table, id.name, "added"})
			case digest != sha256.Sum256(document):
				found.Rows = append(found.Rows, Difference{id.table, id.name, "changed"})
			}
			return nil
		})
		found.Now = newHashes(leaves).root()
		for id := range kept {
			found.Rows = append(found.Rows, Difference{id.table, id.name, "missing"})
		}
		return err
	})
	slices.SortFunc(found.Rows, compareRows)
	return found, err
}

func loadDigests(ctx context.Context, db *sql.DB) (map[rowID][sha256.Size]byte, error) {
	rows, err := db.QueryContext(ctx, "SELECT row_table, name, digest FROM row_hashes")
	if err != nil {
		return nil, fmt.Errorf("reading the digests: %w", corrupt(err))
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	kept := make(map[rowID][sha256.Size]byte)
	for rows.Next() {
		var id rowID
		var digest []byte
		if err := rows.Scan(&id.table, &id.name, &digest); err != nil {
			return nil, fmt.Errorf("reading the digests: %w", corrupt(err))
		}
		var sum [sha256.Size]byte
		copy(sum[:], digest) // one of another length fits no row
		kept[id] = sum
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the digests: %w", corrupt(err))
	}
	return kept, nil
}

// querier is a database or a transaction in it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// eachRow hands every row to f as it is in the file. The document is good
// until f returns.
func eachRow(ctx context.Context, db querier, f func(id rowID, document []byte) error) error {
	return errors.Join(
		eachRowOf(ctx, db, keyKind, f),
		eachRowOf(ctx, db, versionKind, f),
		eachRowOf(ctx, db, aliasKind, f),
		eachRowOf(ctx, db, grantKind, f),
		eachRowOf(ctx, db, usageKind, f),
		eachRowOf(ctx, db, intentKind, f),
		eachRowOf(ctx, db, systemKeyKind, f),
		eachRowOf(ctx, db, importKind, f),
		eachRowOf(ctx, db, customKeyStoreKind, f),
		eachRowOf(ctx, db, settingKind, f),
	)
}

func eachRowOf[T any](ctx context.Context, db querier, k *kind[T], f func(rowID, []byte) error) error {
	rows, err := db.QueryContext(ctx, k.query())
	if err != nil {
		return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	columns, document, targets := k.targets()
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
		}
		if err := f(rowID{k.table, rowName(columns[:k.primary])}, *document); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", k.table, corrupt(err))
	}
	return nil
}

// targets are where a row of query is scanned to.
func (k *kind[T]) targets() (columns []any, document *sql.RawBytes, targets []any) {
	columns, document = make([]any, len(k.columns)), new(sql.RawBytes)
	targets = make([]any, 0, len(columns)+1)
	for i := range columns {
		targets = append(targets, &columns[i])
	}
	return columns, document, append(targets, document)
}

// rehash writes the digests of all rows anew. The rows are read to the end
// first: the connection does one thing at a time.
func rehash(ctx context.Context, tx *sql.Tx) error {
	type row struct {
		id     rowID
		digest [sha256.Size]byte
	}
	var all []row
	err := eachRow(ctx, tx, func(id rowID, document []byte) error {
		all = append(all, row{id, sha256.Sum256(document)})
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM row_hashes"); err != nil {
		return err
	}
	put, err := tx.PrepareContext(ctx, putHash)
	if err != nil {
		return err
	}
	defer put.Close() //nolint:errcheck // the transaction closes it too
	for _, r := range all {
		if _, err := put.ExecContext(ctx, r.id.table, r.id.name, r.digest[:]); err != nil {
			return err
		}
	}
	return nil
}
