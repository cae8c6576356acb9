package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// read makes a snapshot of what the engine has.
func (s *Store) read(ctx context.Context) (*View, *Sealed, error) {
	return s.readEach(ctx, func(*Row, leaf) {})
}

// readEach tells each of every row.
func (s *Store) readEach(ctx context.Context, each func(*Row, leaf)) (*View, *Sealed, error) {
	fillers := make(map[string]filler, len(kinds))
	for _, k := range kinds {
		fillers[k.describe().Name] = k.filler()
	}
	var leaves []leaf
	found, err := s.engine.Load(ctx, Visitor{Row: func(r *Row) error {
		f, ok := fillers[r.Table]
		if !ok {
			return fmt.Errorf("%w: no version of this program has a table %q", ErrCorrupt, r.Table)
		}
		if err := f.add(r); err != nil {
			return err
		}
		l := newLeaf(r.Table, r.Name, r.Document)
		leaves = append(leaves, l)
		each(r, l)
		return nil
	}})
	if err != nil {
		return nil, nil, err
	}
	view := &View{hashes: newHashes(leaves)}
	for _, f := range fillers {
		f.into(view)
	}
	if found != nil {
		if head, err := found.Head(); err == nil { // else it does not verify
			view.sequence = head.Sequence
		}
	}
	return view, found, nil
}

// matches compares what the engine keeps beside the document with its fields.
func matches[T any](k *kind[T], r *Row, row *T) error {
	fields := k.fields(row)
	if err := k.check(fields); err != nil {
		return err
	}
	if r.Columns == nil {
		if RowName(fields[:k.primary]) != r.Name {
			return errors.New("the name differs from the document")
		}
		return nil
	}
	for i, f := range fields {
		var same bool
		switch f := f.(type) {
		case string:
			same = r.Columns[i] == any(f)
		case int:
			same = r.Columns[i] == any(int64(f))
		case []byte:
			column, ok := r.Columns[i].([]byte)
			same = ok && bytes.Equal(column, f)
		}
		if !same {
			return fmt.Errorf("column %s differs from the document", k.columns[i])
		}
	}
	return nil
}
