package store

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Trouble is why a database cannot be written. The zero value is not usable: see
// [NewTrouble].
type Trouble struct {
	why   atomic.Pointer[error] // nil: it can be written
	begun chan struct{}
}

// NewTrouble is for an [Engine], which has no trouble yet.
func NewTrouble() *Trouble { return &Trouble{begun: make(chan struct{}, 1)} }

// Begin keeps why the database cannot be written, and returns the reason as an
// error that wraps [ErrUnwritable].
func (t *Trouble) Begin(reason error) error {
	err := fmt.Errorf("%w: %w", ErrUnwritable, reason)
	if t.why.Swap(&err) == nil {
		select {
		case t.begun <- struct{}{}:
		default:
		}
	}
	return err
}

// End notes that the database has been written.
func (t *Trouble) End() {
	if t.why.Load() != nil {
		t.why.Store(nil)
	}
}

// Err is what [Trouble.Begin] returned last, nil after End.
func (t *Trouble) Err() error {
	if err := t.why.Load(); err != nil {
		return *err
	}
	return nil
}

// Err returns nil while the database can be written, and why not otherwise: it
// is what the last attempt said. An error wraps [ErrUnwritable].
func (s *Store) Err() error { return s.engine.Trouble().Err() }

// Broken receives a value when the database can no longer be written;
// [Store.Err] says why.
func (s *Store) Broken() <-chan struct{} { return s.engine.Trouble().begun }

// Probe tries whether the database can be written, if it could not the last
// time, with a transaction that changes no row. A damaged one is read to the
// end. [Store.Err] has the outcome.
func (s *Store) Probe(ctx context.Context) error {
	asked := time.Now()
	return s.exclusively(ctx, func() error {
		if s.Err() == nil {
			return nil
		}
		if s.doubtful == nil {
			if err := s.engine.Probe(ctx, asked); err != nil {
				return err
			}
		} else if err := s.resolve(ctx, asked); err != nil {
			return err
		}
		return s.Err()
	})
}
