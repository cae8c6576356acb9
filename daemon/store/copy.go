package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotEmpty: a database that should be empty has rows or a head.
var ErrNotEmpty = errors.New("the database is not empty")

// errFound ends the reading of a database that should be empty.
var errFound = errors.New("there is a row")

// Copy copies the rows and the head of s, byte for byte, into an empty database, and
// reads both again to compare them. Nothing is verified that only a token can verify. A
// database without a head is refused: it has nothing to be told from another by.
func (s *Store) Copy(ctx context.Context, to Engine) error {
	asked := time.Now()
	return s.exclusively(ctx, func() error {
		if err := s.resolve(ctx, asked); err != nil {
			return err
		}
		changes, head, err := changesOf(ctx, s.engine)
		if err != nil {
			return err
		}
		switch {
		case head == nil:
			return errors.New("there is nothing to copy: the database has no head, it has not been initialised")
		case !head.Equal(s.Found()):
			return ErrChanged
		}
		there, err := to.Load(ctx, Visitor{Row: func(*Row) error { return errFound }})
		if errors.Is(err, errFound) || err == nil && there != nil {
			return fmt.Errorf("copying: %w: remove what is there, if nothing needs it", ErrNotEmpty)
		}
		if err != nil {
			return err
		}
		w, err := to.Begin(ctx, asked)
		if err != nil {
			return fmt.Errorf("writing the copy: %w", err)
		}
		defer w.Rollback() // unless it has been committed
		if err := w.Commit(ctx, &Batch{Changes: changes, Head: head}); err != nil {
			return fmt.Errorf("writing the copy: %w", err)
		}
		copied, there, err := changesOf(ctx, to)
		if err != nil {
			return fmt.Errorf("reading the copy: %w", err)
		}
		empty := newHashes(nil)
		if !there.Equal(head) || !bytes.Equal(empty.with(copied).root(), empty.with(changes).root()) {
			return fmt.Errorf("reading the copy: %w", ErrChanged)
		}
		return nil
	})
}

// changesOf are the changes that make the rows of the engine out of nothing, and its head,
// which they fit.
func changesOf(ctx context.Context, e Engine) ([]Change, *Sealed, error) {
	var changes []Change
	found, err := e.Load(ctx, Visitor{Row: func(r *Row) error {
		k, ok := kindsByTable[r.Table]
		if !ok {
			return fmt.Errorf("%w: no version of this program has a table %q", ErrCorrupt, r.Table)
		}
		c, err := k.change(bytes.Clone(r.Document))
		if err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrCorrupt, r.Table, r.Name, err)
		}
		changes = append(changes, c)
		return nil
	}})
	if err != nil || found == nil {
		return nil, nil, err
	}
	head, err := found.Head()
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(newHashes(nil).with(changes).root(), head.Root) {
		return nil, nil, fmt.Errorf("%w: the rows are not those of the head", ErrChanged)
	}
	return changes, found, nil
}
