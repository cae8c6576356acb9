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
	// committed: it was found among the commits that a [Shared] engine has brought.
	committed bool
}

// behind reports whether the commit was made before the head, or with it. Each head names the ends of
// all audit trails, and this process has not committed anything since: one with a record has made its
// trail longer. Of those without, nobody asks.
func (d *doubt) behind(found *Sealed, head *Head) bool {
	if d.head == nil || found.Equal(d.head) {
		return d.head != nil
	}
	own, err := d.head.Head()
	if err != nil || own.Node == "" {
		return false
	}
	end := own.Trails[own.Node].Sequence
	return end > 0 && head.Trails[own.Node].Sequence >= end
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
	s.applying.Lock()
	defer s.applying.Unlock()
	followed, err := s.seek(ctx)
	if err != nil {
		return err
	}
	view, there, err := s.read(ctx)
	if err != nil {
		return err
	}
	root := view.Root()
	var committed bool
	switch {
	case s.doubtful.head == nil:
		committed = !bytes.Equal(root, s.View().Root())
	case there.Equal(s.doubtful.head):
		committed = true
	case there.Equal(s.found.Load()):
		committed = s.doubtful.committed
		if s.shared != nil && !bytes.Equal(root, s.View().Root()) {
			return ErrChanged
		}
	case s.shared != nil && there != nil:
		if committed, err = followed || s.doubtful.committed, s.verifyFound(ctx, view, there); err != nil {
			return err
		}
	default:
		return ErrChanged
	}
	shown := committed || there != nil && !there.Equal(s.found.Load())
	if shown && there != nil {
		head, err := there.Head()
		if err != nil {
			return err
		}
		if !bytes.Equal(head.Root, root) {
			return ErrChanged
		}
	}
	if err := s.tell(ctx, committed); err != nil {
		return err
	}
	if shown {
		s.changes.Add(1)
		s.recent.everything(view.sequence)
		s.view.Store(view)
		if there != nil {
			s.sequence = view.sequence
			s.found.Store(there)
		}
	}
	if s.shared != nil {
		s.shared.Rebase()
		s.ahead = nil
	}
	s.doubtful = nil
	return nil
}

// seek reports whether the commit is among those that have come and are not shown yet.
// After a gap the head tells, once everything has been read again. The caller holds applying.
func (s *Store) seek(ctx context.Context) (found bool, err error) {
	if s.shared == nil {
		return false, nil
	}
	if err := s.take(ctx); err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return s.ahead != nil && s.ahead.doubted, nil
}

// verifyFound verifies a head that was found in the place of the one that is not known to be
// committed.
func (s *Store) verifyFound(ctx context.Context, view *View, there *Sealed) error {
	head, err := there.Head()
	if err != nil || head.Sequence <= s.View().sequence || s.sealer == nil {
		return ErrChanged
	}
	return s.sealer.Verify(ctx, s.View(), view, there)
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
