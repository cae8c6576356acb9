// Package store keeps the metadata of keys: rows in a SQLite database, read
// from a snapshot in memory.
//
// The database is the durable form. Opening the store reads it whole; from
// then on it is only written. Readers take a [View], an immutable snapshot
// that a commit replaces, so that no lock, no SQL and no disk is on the path
// of a cryptographic call. The store holds no key material.
//
// # Integrity
//
// A hash over all rows is kept as rows change, and a head with it that a key
// outside the database authenticates ([Sealer]). Both are written in the
// transaction that changes the rows. Version 1, with "‖" for bytes that follow
// each other:
//
//	name     JSON array of the row's primary key, byte strings in hexadecimal
//	place    SHA-256(00 ‖ table ‖ 00 ‖ name)
//	digest   SHA-256(document), the row's JSON as it is in the file
//	bucket i SHA-256(01 ‖ place ‖ digest ‖ place ‖ digest ‖ …) of the rows whose
//	         place starts with the 10 bits i, by place
//	root     SHA-256(02 ‖ bucket 0 ‖ bucket 1 ‖ … ‖ bucket 1023)
//	head     JSON of [Head], which has the root
//	mac      HMAC-SHA-256("cmkd state head v1\n" ‖ head)
//
// A commit hashes the buckets that it changes and the 32 KiB of bucket hashes.
// The columns beside the document are part of it too (Open compares them), and
// so is the order of no rows: their places are.
//
// A database is born without a head and gets one from [Store.Adopt]. From then
// on Open gives a store that can be read only, until the caller has verified
// the head and says so with [Store.Resume]. A migration that changes rows that
// exist must run after that, as an ordinary transaction.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Errors of [Open] and [Store.Update].
var (
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("the store is in use by another process: does another cmkd run with this state_dir?")
	// ErrNewerSchema: a newer version of the program has migrated the
	// database. There is no way back but a backup.
	ErrNewerSchema = errors.New("the database has a newer schema than this program knows")
	// ErrCorrupt: the file is no SQLite database or not the program's, or a
	// row in it contradicts itself or another.
	ErrCorrupt = errors.New("the database is corrupt")
	// ErrPermissions: the file can be read or written by others than its
	// owner, or belongs to somebody else.
	ErrPermissions = errors.New("unsafe permissions")
	// ErrReplaced: another file lies where the database was. What was written
	// to the database since it was opened is in memory only.
	ErrReplaced = errors.New("the database file has been replaced by another")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("the store is closed")
	// ErrUnwritable: the database cannot be written: the disk is full, broken or
	// read-only, or ErrBusy or ErrReplaced. See [Store.Err].
	ErrUnwritable = errors.New("the database cannot be written")
	// ErrBusy: another process keeps the database locked.
	ErrBusy = errors.New("another process keeps the database locked")
	// ErrUnknown: the commit failed, and may all the same be in the file: it may
	// be found after a crash. Nothing that it would make true may be undone
	// before [Store.Settle].
	ErrUnknown = errors.New("it is not known whether the commit is in the database")
)

// Store is an open store. Its methods may be called concurrently.
type Store struct {
	view atomic.Pointer[View]
	path string
	lock *os.File // holds the flock until it is closed

	found   atomic.Pointer[Sealed] // the head of the last commit
	changes atomic.Uint64          // commits that were not bookkeeping
	trouble atomic.Pointer[error]  // why nothing can be written, nil if it can
	broken  chan struct{}          // the trouble has begun

	// writer is a mutex that can be waited for with a context. It guards what
	// follows, and every use of db.
	writer   chan struct{}
	db       *sql.DB
	file     os.FileInfo // of the database file that db has open
	closed   bool
	restored func()
	sealer   Sealer // nil until the head is verified, or while there is none
	sequence uint64 // of the last commit with a head
	refusal  error  // why nothing may be written, nil if it may
	doubtful *doubt // a commit that failed, and may be in the file
	// makeshift: the database is open without its files for shared memory and
	// the log, since there is no room for them. No other process can read it.
	makeshift   bool
	afterCommit func() error // nil but in tests
}

// doubt is a commit whose outcome is not known.
type doubt struct {
	head    *Sealed // nil: the database had none
	cause   error
	settled func(ctx context.Context, committed bool) error // may be nil
}

// AfterCommit makes f speak for the disk once a commit is in the file, for
// tests: an error of f is what SQLite reports of that commit.
func (s *Store) AfterCommit(f func() error) {
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	s.afterCommit = f
}

// OnRestore makes the store tell f each time that it has made its files again,
// because somebody had removed them.
func (s *Store) OnRestore(f func()) {
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	s.restored = f
}

// Open opens the store at path, or creates it with mode 0600 in a directory
// that must exist. Older schemas are migrated. Beside the database lie
// path-wal and path-shm, which are SQLite's and belong to it, and path.lock,
// an empty file on which a lock is held while the store is open. Errors that
// an operator can act on are the ones above; Open changes no file it refuses.
func Open(ctx context.Context, path string) (*Store, error) {
	s := &Store{path: path, writer: make(chan struct{}, 1), broken: make(chan struct{}, 1)}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store %s: %w", path, explained(path, err)), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	var err error
	if s.lock, err = lockFile(s.path + ".lock"); err != nil {
		return err
	}
	if err := createFile(s.path); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, s.db); err != nil {
		return err
	}
	view := newView()
	if err := load(ctx, s.db, &view); err != nil {
		return err
	}
	found, err := loadHead(ctx, s.db)
	if err != nil {
		return err
	}
	if found != nil {
		s.found.Store(found)
		s.refusal = ErrUnverified
	}
	s.view.Store(&view)
	return nil
}

// Close waits for a transaction under way, writes the log back into the
// database file and releases the lock. Views stay valid.
func (s *Store) Close() error {
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, unlockFile(s.lock))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// View returns the snapshot of the last commit.
func (s *Store) View() *View { return s.view.Load() }

// Changes counts the commits since the store was opened, without bookkeeping.
func (s *Store) Changes() uint64 { return s.changes.Load() }

// Update runs f in a transaction. Transactions run one after the other; ctx
// bounds the wait for the turn and for the database, which another process may
// have locked. When f returns nil, its writes are committed
// durably (fsync) and then shown to readers, all at once, with a head if the
// database has one. When f fails, its error is returned as it is and nothing
// has changed. When the head cannot be authenticated (the error is the
// [Sealer]'s) nothing has changed either. Nor has it when the database cannot
// be written ([ErrUnwritable]), which the store notices before it runs f if it
// can; but a commit that fails may be in the file ([ErrUnknown]): if the
// machine or the daemon fails too, before [Store.Settle] or the next commit, it
// may be found after the restart. f must not call Update.
func (s *Store) Update(ctx context.Context, f func(tx *Tx) error) error {
	arrived := time.Now()
	return s.exclusively(ctx, func() error {
		if s.refusal != nil {
			return s.refusal
		}
		if err := s.resolve(ctx, arrived); err != nil {
			return err
		}
		db, err := s.begin(ctx, arrived)
		if err != nil {
			return err
		}
		defer db.Rollback() //nolint:errcheck // unless it has been committed
		tx := &Tx{View: *s.view.Load()}
		if s.sealer != nil {
			tx.sequence = s.sequence + 1
		}
		if err := f(tx); err != nil {
			return err
		}
		if tx.err != nil || len(tx.writes) == 0 && (!tx.head || s.sealer == nil) {
			return tx.err
		}
		return s.finish(ctx, db, tx)
	})
}

// finish writes the transaction with its head, and what more does, to the
// file, and then shows it to readers.
func (s *Store) finish(ctx context.Context, db *sql.Tx, tx *Tx, more ...func(context.Context, *sql.Tx) error) error {
	view := tx.View
	view.hashes = view.hashes.with(tx.changes)
	writes := tx.writes
	var sealed *Sealed
	if s.sealer != nil {
		var err error
		if sealed, err = s.seal(ctx, &view); err != nil {
			return err
		}
		writes = append(writes, headWrites(sealed, tx.changes)...)
	}
	// A cancellation in the middle of COMMIT would leave its outcome unknown,
	// and the statements take milliseconds.
	unknown, err := s.commit(context.WithoutCancel(ctx), db, writes, more)
	if err != nil {
		err = s.failed(err)
		if unknown {
			s.doubtful = &doubt{sealed, err, tx.settled}
			return fmt.Errorf("writing to the store: %w: %w", ErrUnknown, err)
		}
		return fmt.Errorf("writing to the store: %w", err)
	}
	s.show(&view, sealed)
	if !tx.bookkeeping {
		s.changes.Add(1)
	}
	return nil
}

// show makes a commit the one that readers see.
func (s *Store) show(view *View, sealed *Sealed) {
	if sealed != nil {
		s.sequence++
		s.found.Store(sealed)
	}
	s.view.Store(view)
	s.recovered()
}

// commit writes and commits. unknown: it failed, and may be in the file. The
// caller rolls back what is not committed.
func (s *Store) commit(ctx context.Context, tx *sql.Tx, writes []write, more []func(context.Context, *sql.Tx) error) (unknown bool, err error) {
	prepared := make(map[string]*sql.Stmt) // closed with the transaction
	for _, w := range writes {
		statement, ok := prepared[w.statement]
		if !ok {
			if statement, err = tx.PrepareContext(ctx, w.statement); err != nil {
				return false, err
			}
			prepared[w.statement] = statement
		}
		if _, err := statement.ExecContext(ctx, w.args...); err != nil {
			return false, err
		}
	}
	for _, f := range more {
		if err := f(ctx, tx); err != nil {
			return false, err
		}
	}
	err = tx.Commit() // the driver rolls back what it cannot commit
	if err == nil && s.afterCommit != nil {
		err = s.afterCommit()
	}
	if err == nil {
		err = s.keepFiles(ctx) // removed just now
	}
	return err != nil, err
}
