package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
)

// Snapshot returns the rows of the last commit and the head that belongs to them, nil
// if the database has none.
func (s *Store) Snapshot(ctx context.Context) (view *View, head *Sealed, err error) {
	err = s.exclusively(ctx, func() error {
		s.applying.Lock()
		defer s.applying.Unlock()
		view, head = s.view.Load(), s.found.Load()
		return nil
	})
	return view, head, err
}

// Stored returns what the database has, verified or not.
func (s *Store) Stored(ctx context.Context) (view *View, head *Sealed, err error) {
	err = s.exclusively(ctx, func() (err error) {
		view, head, err = s.read(ctx)
		return err
	})
	return view, head, err
}

// Rows yields all rows as the store writes them, without columns, in the order of
// [Tables] and of their primary keys. What an earlier version of the program has written
// may differ by a byte: then [RootOf] is not [View.Root].
func (v *View) Rows() iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		for _, k := range kinds {
			for row, err := range k.rows(v) {
				if !yield(row, err) {
					return
				}
			}
		}
	}
}

// rows encodes the rows of the kind.
func (k *kind[T]) rows(v *View) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		for row := range scan(k.of(v).rows, nil, "") {
			document, err := json.Marshal(row, encoding)
			if !yield(&Row{Table: k.table, Name: RowName(k.fields(row)[:k.primary]), Document: document}, err) {
				return
			}
		}
	}
}

// RootOf returns the hash over rows.
func RootOf(rows iter.Seq2[*Row, error]) ([]byte, error) {
	var leaves []leaf
	for r, err := range rows {
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, newLeaf(r.Table, r.Name, r.Document))
	}
	return newHashes(leaves).root(), nil
}

// changeOf is the row as a commit puts it.
func changeOf(r *Row) (Change, error) {
	k, ok := kindsByTable[r.Table]
	if !ok {
		return Change{}, fmt.Errorf("unknown table %q", r.Table)
	}
	return k.change(r.Document)
}

// Replacement puts rows in the place of all those of a database that no store has open.
type Replacement struct {
	// Rows counts those of the database.
	Rows int
	// Before and After are the hashes over the rows of the database and over the new
	// ones, Head and NewHead their heads, nil if there is none.
	Before, After []byte
	Head, NewHead *Sealed
	// Differences are what changes, by table and row: rows that are "added", "changed"
	// or "removed".
	Differences []Difference

	engine Engine
	batch  *Batch
}

// NewReplacement compares the rows of the engine with those that are to take their
// place, of which only table and document count. It refuses rows that no store would
// open. The rows of the database may be anything.
func NewReplacement(ctx context.Context, engine Engine, rows []*Row, head *Sealed) (*Replacement, error) {
	r := &Replacement{engine: engine, NewHead: head}
	fresh := make(map[rowID]*Change, len(rows))
	fillers := make(map[string]filler, len(kinds))
	for _, k := range kinds {
		fillers[k.describe().Name] = k.filler()
	}
	leaves := make([]leaf, 0, len(rows))
	batch := &Batch{Head: head, Rehash: head != nil}
	for _, row := range rows {
		c, err := changeOf(row)
		if err != nil {
			return nil, err
		}
		if err := fillers[c.Table].add(&Row{Table: c.Table, Name: c.Name, Document: c.Document}); err != nil {
			return nil, err
		}
		fresh[rowID{c.Table, c.Name}] = &c
		leaves = append(leaves, leaf{place(c.Table, c.Name), c.Digest})
		if head != nil {
			batch.Digests = append(batch.Digests, Digest{c.Table, c.Name, c.Digest[:]})
		}
	}
	r.After, r.batch = newHashes(leaves).root(), batch
	return r, r.compare(ctx, fresh)
}

// compare reads the database and finds out what has to change. What it does not have to,
// it leaves as it is.
func (r *Replacement) compare(ctx context.Context, fresh map[rowID]*Change) (err error) {
	var leaves []leaf
	var gone []Change
	r.Head, err = r.engine.Load(ctx, Visitor{Row: func(row *Row) error {
		l := newLeaf(row.Table, row.Name, row.Document)
		leaves = append(leaves, l)
		id := rowID{row.Table, row.Name}
		c, stays := fresh[id]
		if stays && c.Digest == l.digest {
			delete(fresh, id)
			return nil
		}
		kind := "removed"
		if stays {
			kind = "changed"
		}
		r.Differences = append(r.Differences, Difference{row.Table, row.Name, kind})
		gone = append(gone, Change{Row: Row{Table: row.Table, Name: row.Name, Columns: primaryOf(row)}})
		return nil
	}})
	if err != nil {
		return err
	}
	r.Rows, r.Before, r.batch.Before = len(leaves), newHashes(leaves).root(), r.Head
	changed := make(map[rowID]bool, len(r.Differences))
	for _, d := range r.Differences {
		changed[rowID{d.Table, d.Row}] = true
	}
	// All that changes goes first: two rows may have changed places in what is unique.
	r.batch.Changes = gone
	for id, c := range fresh {
		if !changed[id] {
			r.Differences = append(r.Differences, Difference{id.table, id.name, "added"})
		}
		r.batch.Changes = append(r.batch.Changes, *c)
	}
	slices.SortFunc(r.Differences, compareRows)
	return nil
}

// primaryOf returns the values of the primary key that the engine has of a row, nil if
// it has no columns.
func primaryOf(row *Row) []any {
	for _, k := range kinds {
		if t := k.describe(); t.Name == row.Table && len(row.Columns) >= t.Primary {
			return slices.Clone(row.Columns[:t.Primary])
		}
	}
	return nil
}

// Same reports whether the database has these rows and this head already.
func (r *Replacement) Same() bool { return len(r.Differences) == 0 && r.Head.Equal(r.NewHead) }

// Commit makes the replacement durable in one commit, all of it or nothing. [ErrChanged]
// says that the database is no longer as it was compared, if the engine finds that out.
func (r *Replacement) Commit(ctx context.Context) error {
	w, err := r.engine.Begin(ctx, time.Now())
	if err != nil {
		return fmt.Errorf("writing to the store: %w", err)
	}
	defer w.Rollback() // unless it has been committed
	if err := w.Commit(context.WithoutCancel(ctx), r.batch); err != nil {
		return fmt.Errorf("writing to the store: %w", err)
	}
	return nil
}
