package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"cmkd/daemon/store"
)

// Load implements [store.Engine]. Nobody else writes while the lock file is
// held, and the connection does one thing at a time: the queries see one commit.
func (e *Engine) Load(ctx context.Context, visit store.Visitor) (*store.Sealed, error) {
	if err := e.keepFiles(ctx); err != nil {
		return nil, err
	}
	if visit.Row != nil {
		for _, t := range tables {
			if err := loadTable(ctx, e.db, t, visit.Row); err != nil {
				return nil, err
			}
		}
	}
	if visit.Digest != nil {
		if err := loadDigests(ctx, e.db, visit.Digest); err != nil {
			return nil, err
		}
	}
	return loadHead(ctx, e.db)
}

// Check implements [store.Engine]: what SQLite remembers of the file says nothing
// about the file.
func (e *Engine) Check(ctx context.Context) error {
	if err := e.keepFiles(ctx); err != nil {
		return err
	}
	if _, err := e.db.ExecContext(ctx, "PRAGMA shrink_memory"); err != nil {
		return corrupt(err)
	}
	return checkPages(ctx, e.db)
}

func loadTable(ctx context.Context, db *sql.DB, t *statements, visit func(*store.Row) error) error {
	rows, err := db.QueryContext(ctx, t.query)
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, corrupt(err))
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	row := &store.Row{Table: t.Name, Columns: make([]any, len(t.Columns))}
	var document sql.RawBytes
	targets := make([]any, 0, len(t.Columns)+1)
	for i := range row.Columns {
		targets = append(targets, &row.Columns[i])
	}
	targets = append(targets, &document)
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return fmt.Errorf("reading %s: %w", t.Name, corrupt(err))
		}
		row.Name, row.Document = store.RowName(row.Columns[:t.Primary]), document
		if err := visit(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, corrupt(err))
	}
	return nil
}

func loadDigests(ctx context.Context, db *sql.DB, visit func(*store.Digest) error) error {
	rows, err := db.QueryContext(ctx, "SELECT row_table, name, digest FROM row_hashes")
	if err != nil {
		return fmt.Errorf("reading the digests: %w", corrupt(err))
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var d store.Digest
		if err := rows.Scan(&d.Table, &d.Name, &d.Sum); err != nil {
			return fmt.Errorf("reading the digests: %w", corrupt(err))
		}
		if err := visit(&d); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the digests: %w", corrupt(err))
	}
	return nil
}

func loadHead(ctx context.Context, db *sql.DB) (*store.Sealed, error) {
	var document string
	found := &store.Sealed{}
	err := db.QueryRowContext(ctx, "SELECT document, mac FROM head WHERE id = 1").Scan(&document, &found.MAC)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // a database without a head is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("reading the head: %w", corrupt(err))
	}
	found.Document = []byte(document)
	return found, nil
}
