package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// lockWait is how long a transaction waits for a database that another process
// has locked, from when it was asked for: those that come together fail
// together.
const lockWait = 2 * time.Second

// Pauses between two attempts to lock the database.
const (
	firstPause = time.Millisecond
	maxPause   = 50 * time.Millisecond
)

// Err returns nil while the database can be written, and why not otherwise: it
// is what the last attempt said. An error wraps [ErrUnwritable].
func (s *Store) Err() error {
	if err := s.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// Broken receives a value when the database can no longer be written;
// [Store.Err] says why.
func (s *Store) Broken() <-chan struct{} { return s.broken }

// failed keeps why the database cannot be written.
func (s *Store) failed(err error) error {
	err = fmt.Errorf("%w: %w", ErrUnwritable, corrupt(explained(s.path, err)))
	if s.trouble.Swap(&err) == nil {
		select {
		case s.broken <- struct{}{}:
		default:
		}
	}
	return err
}

// recovered notes that the database has been written.
func (s *Store) recovered() {
	if !s.makeshift && s.trouble.Load() != nil {
		s.trouble.Store(nil)
	}
}

// Probe tries whether the database can be written, if it could not the last
// time, with a transaction that changes no row. A damaged one is read to the
// end. [Store.Err] has the outcome.
func (s *Store) Probe(ctx context.Context) error {
	arrived := time.Now()
	return s.exclusively(ctx, func() error {
		trouble := s.Err()
		if trouble == nil {
			return nil
		}
		if s.makeshift {
			if err := s.reconnect(ctx); err != nil {
				return s.failed(err)
			}
			if s.makeshift {
				return s.Err()
			}
		}
		if err := s.resolve(ctx, arrived); err != nil {
			return err
		}
		if errors.Is(trouble, ErrCorrupt) {
			if err := checkDatabase(ctx, s.db); err != nil {
				return s.failed(err)
			}
		}
		return s.touch(ctx, arrived)
	})
}

// Settle makes certain what became of a commit that failed with [ErrUnknown]:
// after it either the rows have it, or no restart finds it any more. If that
// cannot be made certain yet, it fails.
func (s *Store) Settle(ctx context.Context) error {
	arrived := time.Now()
	return s.exclusively(ctx, func() error { return s.resolve(ctx, arrived) })
}

// touch makes a commit that changes no row.
func (s *Store) touch(ctx context.Context, arrived time.Time) error {
	tx, err := s.begin(ctx, arrived)
	if err != nil {
		return err
	}
	// It has this value; SQLite writes the first page all the same.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return s.failed(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return s.failed(err)
	}
	s.recovered()
	return nil
}

// begin begins a transaction in files that are where they belong. What is
// written to a file that has been removed is gone with the process.
func (s *Store) begin(ctx context.Context, arrived time.Time) (*sql.Tx, error) {
	if err := s.keepFiles(ctx); err != nil {
		return nil, fmt.Errorf("writing to the store: %w", s.failed(err))
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		// The transaction outlives ctx: see finish.
		tx, err := s.db.BeginTx(context.WithoutCancel(ctx), nil)
		switch {
		case err == nil:
			return tx, nil
		case !busy(err):
			return nil, fmt.Errorf("writing to the store: %w", s.failed(err))
		case time.Since(arrived) > lockWait:
			return nil, fmt.Errorf("writing to the store: %w", s.failed(fmt.Errorf("%w: %w", ErrBusy, err)))
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
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_BUSY
}
