package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"cmkd/daemon/store"
)

// statements are all that change a table or read it.
type statements struct {
	store.Table
	upsert, remove, query string
}

var (
	tables  []*statements // as store.Tables
	byTable = make(map[string]*statements)
)

func init() {
	for _, t := range store.Tables() {
		s := newStatements(t)
		tables, byTable[t.Name] = append(tables, s), s
	}
}

func newStatements(t store.Table) *statements {
	columns, primary := strings.Join(t.Columns, ", "), strings.Join(t.Columns[:t.Primary], ", ")
	set := "document = excluded.document"
	for _, c := range t.Columns[t.Primary:] {
		set += ", " + c + " = excluded." + c
	}
	return &statements{
		Table: t,
		upsert: "INSERT INTO " + t.Name + " (" + columns + ", document) VALUES (?" + strings.Repeat(", ?", len(t.Columns)) +
			") ON CONFLICT (" + primary + ") DO UPDATE SET " + set,
		remove: "DELETE FROM " + t.Name + " WHERE " + strings.Join(t.Columns[:t.Primary], " = ? AND ") + " = ?",
		query:  "SELECT " + columns + ", document FROM " + t.Name + " ORDER BY " + primary,
	}
}

const (
	putHead = "INSERT INTO head (id, document, mac) VALUES (1, ?, ?) " +
		"ON CONFLICT (id) DO UPDATE SET document = excluded.document, mac = excluded.mac"
	putHash = "INSERT INTO row_hashes (row_table, name, digest) VALUES (?, ?, ?) " +
		"ON CONFLICT (row_table, name) DO UPDATE SET digest = excluded.digest"
	removeHash  = "DELETE FROM row_hashes WHERE row_table = ? AND name = ?"
	clearHashes = "DELETE FROM row_hashes"
)

// writer is a [store.Writer].
type writer struct {
	engine *Engine
	tx     *sql.Tx
}

// Rollback implements [store.Writer].
func (w *writer) Rollback() { _ = w.tx.Rollback() }

// Commit implements [store.Writer].
func (w *writer) Commit(ctx context.Context, batch *store.Batch) error {
	defer w.Rollback()
	ctx = context.WithoutCancel(ctx)
	b := batchWriter{w.tx, make(map[string]*sql.Stmt)}
	if err := b.write(ctx, batch); err != nil {
		return w.engine.failed(err)
	}
	err := w.tx.Commit() // the driver rolls back what it cannot commit
	if err == nil && w.engine.afterCommit != nil {
		err = w.engine.afterCommit()
	}
	if err == nil {
		err = w.engine.keepFiles(ctx) // removed just now
	}
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnknown, w.engine.failed(err))
	}
	w.engine.recovered()
	return nil
}

// batchWriter executes statements, each prepared once.
type batchWriter struct {
	tx       *sql.Tx
	prepared map[string]*sql.Stmt // closed with the transaction
}

func (b *batchWriter) exec(ctx context.Context, statement string, args ...any) (err error) {
	prepared, ok := b.prepared[statement]
	if !ok {
		if prepared, err = b.tx.PrepareContext(ctx, statement); err != nil {
			return err
		}
		b.prepared[statement] = prepared
	}
	_, err = prepared.ExecContext(ctx, args...)
	return err
}

// write writes all of the batch. Nobody else can have written since the commit
// before: the lock file keeps them out.
func (b *batchWriter) write(ctx context.Context, batch *store.Batch) error {
	for i := range batch.Changes {
		if err := b.row(ctx, &batch.Changes[i]); err != nil {
			return err
		}
	}
	if batch.Head == nil {
		return nil
	}
	if batch.Rehash {
		if err := b.exec(ctx, clearHashes); err != nil {
			return err
		}
		for _, d := range batch.Digests {
			if err := b.exec(ctx, putHash, d.Table, d.Name, d.Sum); err != nil {
				return err
			}
		}
	} else if err := b.digests(ctx, batch.Changes); err != nil {
		return err
	}
	return b.exec(ctx, putHead, string(batch.Head.Document), batch.Head.MAC)
}

func (b *batchWriter) row(ctx context.Context, c *store.Change) error {
	t, ok := byTable[c.Table]
	if !ok {
		return fmt.Errorf("the schema has no table %q", c.Table)
	}
	statement, args := t.remove, c.Columns
	if !c.Deleted() {
		statement, args = t.upsert, append(c.Columns[:len(c.Columns):len(c.Columns)], string(c.Document))
	}
	return b.exec(ctx, statement, args...)
}

func (b *batchWriter) digests(ctx context.Context, changes []store.Change) (err error) {
	for i := range changes {
		if c := &changes[i]; c.Deleted() {
			err = b.exec(ctx, removeHash, c.Table, c.Name)
		} else {
			err = b.exec(ctx, putHash, c.Table, c.Name, c.Digest[:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
