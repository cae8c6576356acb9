// Package store keeps the metadata of keys: rows in a database, read from a
// snapshot in memory.
//
// The database is the durable form, behind an [Engine]. Opening the store reads
// it whole; from then on it is only written. Readers take a [View], an immutable
// snapshot that a commit replaces, so that no lock, no query and no disk is on
// the path of a cryptographic call. The store holds no key material.
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
//	digest   SHA-256(document), the row's JSON as it is in the database
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
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed: the store has been closed.
var ErrClosed = errors.New("the store is closed")

// Store is an open store. Its methods may be called concurrently.
type Store struct {
	view    atomic.Pointer[View]
	engine  Engine
	found   atomic.Pointer[Sealed] // the head of the last commit
	changes atomic.Uint64          // commits that were not bookkeeping
	fenced  Fenced                 // the engine, nil if it is none
	shared  Shared                 // the engine, nil if it is none

	// applying is held while the rows that readers see, and what is known of the last
	// commit, are replaced. Who holds writer takes it for that too.
	applying sync.Mutex
	ahead    *followed // what others have committed and is not shown yet, nil if nothing is; guarded by applying
	spoiled  error     // why nothing that others commit is shown; guarded by applying
	// overtaken is how many commits in a row did not verify, and had others behind them; guarded by applying.
	overtaken int
	recent    recent // of a shared database

	// writer is a mutex that can be waited for with a context. It guards every use of engine and what
	// follows. Who follows the others of a shared database uses sealer, and changes sequence and doubtful, with
	// applying held instead.
	writer   chan struct{}
	closed   bool
	sealer   Sealer // nil until the head is verified, or while there is none
	sequence uint64 // of the last commit with a head
	refusal  error  // why nothing may be written, nil if it may
	doubtful *doubt // a commit that failed, and may be in the database
}

// Open reads all that the engine has. The store closes the engine; so does
// an Open that fails.
func Open(ctx context.Context, engine Engine) (*Store, error) {
	s := &Store{engine: engine, writer: make(chan struct{}, 1)}
	s.fenced, _ = engine.(Fenced)
	s.shared, _ = engine.(Shared)
	view, found, err := s.read(ctx)
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	if found != nil {
		s.found.Store(found)
		s.refusal = ErrUnverified
	}
	if s.shared != nil {
		s.shared.Rebase()
	}
	s.view.Store(view)
	return s, nil
}

// Close waits for a transaction under way and closes the engine. Views stay valid.
func (s *Store) Close() error {
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.engine.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// View returns the snapshot of the last commit.
func (s *Store) View() *View { return s.view.Load() }

// Fresh returns nil if views that were taken before the call may be acted on. Otherwise
// others may have changed the database since; the error wraps [ErrStale].
func (s *Store) Fresh() error {
	if s.fenced == nil {
		return nil
	}
	return s.fenced.Fresh()
}

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
	asked := time.Now()
	return s.exclusively(ctx, func() error {
		if s.refusal != nil {
			return s.refusal
		}
		if err := s.resolve(ctx, asked); err != nil {
			return err
		}
		w, err := s.begin(ctx, asked)
		if err != nil {
			return err
		}
		defer w.Rollback() // unless it has been committed
		if err := s.CatchUp(ctx); err != nil {
			return err
		}
		tx := &Tx{View: *s.view.Load()}
		if s.sealer != nil {
			tx.sequence = s.sequence + 1
		}
		if err := f(tx); err != nil {
			return err
		}
		if tx.err != nil || len(tx.changes) == 0 && (!tx.head || s.sealer == nil) {
			return tx.err
		}
		s.applying.Lock()
		defer s.applying.Unlock()
		return s.finish(ctx, w, tx, &Batch{Before: s.found.Load()})
	})
}

// begin makes the engine ready for a commit, before anything is done for it.
func (s *Store) begin(ctx context.Context, asked time.Time) (Writer, error) {
	w, err := s.engine.Begin(ctx, asked)
	if err != nil {
		return nil, fmt.Errorf("writing to the store: %w", err)
	}
	return w, nil
}

// finish completes the batch with the changes of the transaction and a head,
// writes it, and then shows it to readers. The caller holds applying.
func (s *Store) finish(ctx context.Context, w Writer, tx *Tx, batch *Batch) error {
	view := tx.View
	view.hashes = view.hashes.with(tx.changes)
	batch.Changes = tx.changes
	if s.sealer != nil {
		var err error
		if batch.Head, err = s.seal(ctx, &view, tx.bookkeeping); err != nil {
			return err
		}
	}
	// A cancellation in the middle of it would leave its outcome unknown.
	err := w.Commit(context.WithoutCancel(ctx), batch)
	if err != nil {
		if errors.Is(err, ErrUnknown) {
			s.doubtful = &doubt{head: batch.Head, cause: err, settled: tx.settled}
		}
		return fmt.Errorf("writing to the store: %w", err)
	}
	if s.shared != nil && batch.Head != nil && !tx.bookkeeping {
		s.recent.note(s.sequence+1, s.view.Load(), &view, tx.changes)
	}
	s.show(&view, batch.Head)
	if !tx.bookkeeping {
		s.changes.Add(1)
	}
	return nil
}

// show makes a commit the one that readers see.
func (s *Store) show(view *View, sealed *Sealed) {
	if sealed != nil {
		s.sequence++
		view.sequence = s.sequence
		s.found.Store(sealed)
	}
	s.view.Store(view)
}

// exclusively runs f while nobody else writes.
func (s *Store) exclusively(ctx context.Context, f func() error) error {
	select {
	case s.writer <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting to write to the store: %w", context.Cause(ctx))
	}
	defer func() { <-s.writer }()
	if s.closed {
		return ErrClosed
	}
	return f()
}
