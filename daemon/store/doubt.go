package store

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

// doubt is a commit whose outcome is not known.
type doubt struct {
	head    *Sealed // nil: the database had none
	cause   error
	settled func(ctx context.Context, committed bool) error // may be nil
}

// Settle makes certain what became of a commit that failed with [ErrUnknown]:
// after it either the rows have it, or no restart finds it any more. If that
// cannot be made certain yet, it fails.
func (s *Store) Settle(ctx context.Context) error {
	asked := time.Now()
	return s.exclusively(ctx, func() error { return s.resolve(ctx, asked) })
}

// resolve finds out whether the commit before, which failed, is in the database:
// the disk may have failed after it was. What it left would differ from every
// head that follows. The engine may have taken it back, and yet a restart could
// find it, until another commit has taken its place.
func (s *Store) resolve(ctx context.Context, asked time.Time) error {
	if s.doubtful == nil {
		return nil
	}
	if err := s.engine.Probe(ctx, asked); err != nil {
		return fmt.Errorf("%w (tried again: %w)", s.doubtful.cause, err)
	}
	ctx = context.WithoutCancel(ctx)
	view, there, err := s.read(ctx)
	if err != nil {
		return err
	}
	root, committed := view.Root(), false
	switch {
	case s.doubtful.head == nil:
		committed = !bytes.Equal(root, s.View().Root())
	case there.Equal(s.doubtful.head):
		committed = true
	case !there.Equal(s.found.Load()):
		return ErrChanged
	}
	var head *Head
	if committed && there != nil {
		if head, err = there.Head(); err != nil {
			return err
		}
		if !bytes.Equal(head.Root, root) {
			return ErrChanged
		}
	}
	if err := s.tell(ctx, committed); err != nil {
		return err
	}
	if head != nil {
		s.sequence = head.Sequence
		s.found.Store(there)
	}
	if committed {
		s.changes.Add(1)
		s.view.Store(view)
	}
	s.doubtful = nil
	return nil
}

// tell says what became of the commit that failed; see [Tx.OnSettle].
func (s *Store) tell(ctx context.Context, committed bool) error {
	if f := s.doubtful.settled; f != nil {
		if err := f(ctx, committed); err != nil {
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return nil
}

// adoptDoubt ends a doubt about rows that are adopted as they are, with the head
// that was found beside them.
func (s *Store) adoptDoubt(ctx context.Context, there *Sealed) error {
	if s.doubtful == nil {
		return nil
	}
	if err := s.tell(ctx, there != nil && there.Equal(s.doubtful.head)); err != nil {
		return err
	}
	s.doubtful = nil
	return nil
}
