package store

import (
	"bytes"
	"context"
	"fmt"
)

// followed is what commits of others lead to, on from what the store shows. They are applied once,
// however long the token is away that verifies the last head.
type followed struct {
	view    *View
	sealed  *Sealed // of the last commit, nil if none of them has one
	changes uint64  // that were not bookkeeping
	doubted bool    // the commit whose outcome is not known is one of them
	err     error   // why they lead nowhere
}

// take has the engine's commits followed. The caller holds applying.
func (s *Store) take(ctx context.Context) error {
	taken, err := s.shared.Take(ctx)
	if len(taken) > 0 && s.ahead == nil {
		view := *s.View()
		s.ahead = &followed{view: &view}
	}
	for i := range taken {
		c := &taken[i]
		if s.doubtful != nil && !c.Outside && c.Head.Equal(s.doubtful.head) {
			s.ahead.doubted = true
		}
		if s.ahead.err == nil {
			s.ahead.err = s.ahead.follow(c, s.Found() != nil, &s.recent)
		}
	}
	return err
}

// follow applies a commit, without any trust in it but that rows and head fit each other. headed: the
// database has a head.
func (f *followed) follow(c *Commit, headed bool, recent *recent) error {
	if c.Rewound {
		return errRewound
	}
	view, before := f.view, *f.view
	if c.Outside {
		if c.Head != nil || !view.has(c.Rows) {
			return errOutside
		}
		return nil
	}
	changes, err := view.apply(c.Rows)
	if err != nil {
		return err
	}
	view.hashes = view.hashes.with(changes)
	if c.Head == nil {
		if headed || f.sealed != nil {
			return fmt.Errorf("%w: its head is missing", ErrChanged)
		}
		f.changes++
		return nil
	}
	head, err := c.Head.Head()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if !bytes.Equal(head.Root, view.Root()) {
		return fmt.Errorf("%w: the rows of commit %d are not those of its head", ErrChanged, head.Sequence)
	}
	if head.Sequence <= view.sequence {
		return fmt.Errorf("%w: its head, of commit %d, is older than commit %d", ErrChanged, head.Sequence, view.sequence)
	}
	view.sequence, f.sealed = head.Sequence, c.Head
	if !head.Bookkeeping {
		f.changes++
		recent.note(head.Sequence, &before, view, changes)
	}
	return nil
}

// has reports whether the rows are those of the snapshot.
func (v *View) has(rows []Row) bool {
	for i := range rows {
		l := newLeaf(rows[i].Table, rows[i].Name, rows[i].Document)
		digest, there := v.hashes.digest(&l)
		if there != (rows[i].Document != nil) || there && digest != l.digest {
			return false
		}
	}
	return true
}

// apply makes the rows those of the snapshot. All of them go first: two may have changed
// places in what is unique.
func (v *View) apply(rows []Row) ([]Change, error) {
	changes := make([]Change, len(rows))
	for i := range rows {
		r := &rows[i]
		k, ok := kindsByTable[r.Table]
		if !ok {
			return nil, fmt.Errorf("%w: no version of this program has a table %q", ErrCorrupt, r.Table)
		}
		if err := k.drop(v, r.Name); err != nil {
			return nil, fmt.Errorf("%w: %s %s: %w", ErrCorrupt, r.Table, r.Name, err)
		}
		changes[i] = Change{Row: *r}
	}
	for i := range rows {
		r := &rows[i]
		if r.Document == nil {
			continue
		}
		if err := kindsByTable[r.Table].add(v, r); err != nil {
			return nil, fmt.Errorf("%w: %s %s: %w", ErrCorrupt, r.Table, r.Name, err)
		}
		changes[i].Digest = newLeaf(r.Table, r.Name, r.Document).digest
	}
	return changes, nil
}
