// Package sqlite keeps a [store.Store] in a SQLite database: one table for each
// kind of row, one for the digests of all rows and one for the head. The
// migrations have the schema.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"cmkd/daemon/internal/lockfile"
	"cmkd/daemon/store"
)

// Engine is a [store.Engine] over one database file.
type Engine struct {
	path     string
	restored func()         // may be nil
	trouble  *store.Trouble // why nothing can be written
	lock     *lockfile.Lock
	db       *sql.DB     // nil while it could not be opened again
	file     os.FileInfo // of the database file that db has open
	// makeshift: the database is open without its files for shared memory and
	// the log, since there is no room for them. No other process can read it.
	makeshift   bool
	afterCommit func() error // nil but in tests: what SQLite reports of a commit
}

// Options are what may be left out.
type Options struct {
	// Restored is called each time that the database's files have been made
	// again, because somebody had removed them.
	Restored func()
}

// Open opens the store at path, or creates it with mode 0600 in a directory
// that must exist. Older schemas are migrated. Beside the database lie
// path-wal and path-shm, which are SQLite's and belong to it, and path.lock,
// an empty file on which a lock is held while the store is open. Errors that
// an operator can act on are the store's; Open changes no file it refuses.
func Open(ctx context.Context, path string, options Options) (*store.Store, error) {
	engine, err := NewEngine(ctx, path, options)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, engine)
	if err != nil {
		return nil, openingFailed(path, err)
	}
	return s, nil
}

// NewEngine opens the database file only; see [Open].
func NewEngine(ctx context.Context, path string, options Options) (*Engine, error) {
	e := &Engine{path: path, restored: options.Restored, trouble: store.NewTrouble()}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(openingFailed(path, err), e.Close())
	}
	return e, nil
}

func openingFailed(path string, err error) error {
	return fmt.Errorf("opening the store %s: %w", path, explained(path, err))
}

func (e *Engine) open(ctx context.Context) (err error) {
	if e.lock, err = lockFile(e.path + ".lock"); err != nil {
		return err
	}
	if err := createFile(e.path); err != nil {
		return err
	}
	if err := e.connect(ctx); err != nil {
		return err
	}
	return migrate(ctx, e.db)
}

// Close writes the log back into the database file and releases the lock.
func (e *Engine) Close() error {
	err := e.disconnect()
	if e.lock != nil {
		err = errors.Join(err, e.lock.Release())
		e.lock = nil
	}
	return err
}

// Trouble implements [store.Engine].
func (e *Engine) Trouble() *store.Trouble { return e.trouble }

// failed keeps why the database cannot be written.
func (e *Engine) failed(err error) error { return e.trouble.Begin(corrupt(explained(e.path, err))) }

// recovered notes that the database has been written.
func (e *Engine) recovered() {
	if !e.makeshift {
		e.trouble.End()
	}
}

// lockWait is how long a transaction waits for a database that another process
// has locked, from when it was asked for: those that come together fail
// together.
const lockWait = 2 * time.Second

// Pauses between two attempts to lock the database.
const (
	firstPause = time.Millisecond
	maxPause   = 50 * time.Millisecond
)

// Begin implements [store.Engine].
func (e *Engine) Begin(ctx context.Context, asked time.Time) (store.Writer, error) {
	tx, err := e.begin(ctx, asked)
	if err != nil {
		return nil, err
	}
	return &writer{e, tx}, nil
}

// begin begins a transaction in files that are where they belong. What is
// written to a file that has been removed is gone with the process.
func (e *Engine) begin(ctx context.Context, asked time.Time) (*sql.Tx, error) {
	if err := e.keepFiles(ctx); err != nil {
		return nil, e.failed(err)
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		// The transaction outlives ctx: see [store.Writer].
		tx, err := e.db.BeginTx(context.WithoutCancel(ctx), nil)
		switch {
		case err == nil:
			return tx, nil
		case !busy(err):
			return nil, e.failed(err)
		case time.Since(asked) > lockWait:
			return nil, e.failed(fmt.Errorf("%w: %w", store.ErrBusy, err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the database: %w", context.Cause(ctx))
		}
	}
}

// busy reports whether another process has the database locked.
func busy(err error) bool {
	e, ok := errors.AsType[*driver.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// Probe implements [store.Engine]. SQLite takes back a commit that failed, and yet
// a restart could find it in the log, until another has taken its place there.
// A damaged database is read to the end.
func (e *Engine) Probe(ctx context.Context, asked time.Time) error {
	if e.makeshift {
		if err := e.reconnect(ctx); err != nil {
			return e.failed(err)
		}
	}
	if errors.Is(e.trouble.Err(), store.ErrCorrupt) && e.db != nil {
		if err := checkDatabase(ctx, e.db); err != nil {
			return e.failed(err)
		}
	}
	tx, err := e.begin(ctx, asked)
	if err != nil {
		return err
	}
	// It has this value; SQLite writes the first page all the same.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return e.failed(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return e.failed(err)
	}
	e.recovered()
	return nil
}
