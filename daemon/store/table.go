package store

import (
	"bytes"
	"fmt"
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// table is one kind of row in a snapshot: persistent radix trees, of which a
// changed copy shares all but the changed path. Assignment copies a table.
type table[T any] struct {
	rows    *iradix.Tree[*T]
	indexes [maxIndexes]*iradix.Tree[*T]
	counts  *iradix.Tree[int]
}

func newTable[T any](k *kind[T]) table[T] {
	t := table[T]{rows: iradix.New[*T]()}
	for i := range k.indexes {
		t.indexes[i] = iradix.New[*T]()
	}
	if k.group != nil {
		t.counts = iradix.New[int]()
	}
	return t
}

// ConflictError says that a row contradicts another: both would have the same
// place in an index that promises uniqueness, such as two current versions of
// one key. Within a transaction the old row gives up its place first.
type ConflictError struct {
	Table string // as in the database, such as "versions"
	Index string // what must be unique, such as "CKA_ID"
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: another row has the same %s", e.Table, e.Index)
}

// put returns the table with row in it, in place of one with the same primary
// key. t itself stays as it was.
func (t table[T]) put(k *kind[T], row *T) (table[T], error) {
	key := appendKey(nil, k.fields(row)[:k.primary]...)
	rows, old, replaced := t.rows.Insert(key, row)
	t.rows = rows
	for i, x := range k.indexes {
		at := x.of(row)
		var place []byte
		if at != nil {
			place = appendKey(nil, at...)
		}
		if replaced {
			if was := x.of(old); was != nil {
				if oldPlace := appendKey(nil, was...); !bytes.Equal(oldPlace, place) {
					t.indexes[i], _, _ = t.indexes[i].Delete(oldPlace)
				}
			}
		}
		if place == nil {
			continue
		}
		var other *T
		t.indexes[i], other, _ = t.indexes[i].Insert(place, row)
		if other != nil && other != old {
			return table[T]{}, &ConflictError{Table: k.table, Index: x.name}
		}
	}
	if replaced {
		t.count(k, old, -1)
	}
	t.count(k, row, +1)
	return t, nil
}

// remove returns the table without the row, and whether there was one.
func (t table[T]) remove(k *kind[T], key []byte) (table[T], bool) {
	rows, old, found := t.rows.Delete(key)
	if !found {
		return t, false
	}
	t.rows = rows
	for i, x := range k.indexes {
		if was := x.of(old); was != nil {
			t.indexes[i], _, _ = t.indexes[i].Delete(appendKey(nil, was...))
		}
	}
	t.count(k, old, -1)
	return t, true
}

func (t *table[T]) count(k *kind[T], row *T, by int) {
	if k.group == nil {
		return
	}
	group := appendKey(nil, k.group(row)...)
	n, _ := t.counts.Get(group)
	if n+by == 0 {
		t.counts, _, _ = t.counts.Delete(group)
		return
	}
	t.counts, _, _ = t.counts.Insert(group, n+by)
}

// scan yields the rows of a tree whose keys start with prefix, in order, from
// behind prefix+after on; an empty after starts at the first.
func scan[T any](tree *iradix.Tree[*T], prefix []byte, after string) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		it := tree.Root().Iterator()
		if after == "" {
			it.SeekPrefix(prefix)
			for _, row, ok := it.Next(); ok; _, row, ok = it.Next() {
				if !yield(row) {
					return
				}
			}
			return
		}
		start := appendKey(bytes.Clone(prefix), after)
		it.SeekLowerBound(start)
		for key, row, ok := it.Next(); ok && bytes.HasPrefix(key, prefix); key, row, ok = it.Next() {
			if !bytes.Equal(key, start) && !yield(row) {
				return
			}
		}
	}
}

// builder fills a new table with rows, cheaper than as many puts.
type builder[T any] struct {
	kind    *kind[T]
	rows    *iradix.Txn[*T]
	indexes [maxIndexes]*iradix.Txn[*T]
	counts  map[string]int
}

func newBuilder[T any](k *kind[T]) *builder[T] {
	b := &builder[T]{kind: k, rows: iradix.New[*T]().Txn(), counts: make(map[string]int)}
	for i := range k.indexes {
		b.indexes[i] = iradix.New[*T]().Txn()
	}
	return b
}

// add implements [filler].
func (b *builder[T]) add(r *Row) error {
	row, err := decode[T](r.Document)
	if err == nil {
		err = matches(b.kind, r, row)
	}
	if err == nil {
		err = b.insert(row)
	}
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrCorrupt, r.Table, r.Name, err)
	}
	return nil
}

// into implements [filler].
func (b *builder[T]) into(v *View) { *b.kind.of(v) = b.table() }

func (b *builder[T]) insert(row *T) error {
	var buf [2 * keyBytes]byte
	if _, taken := b.rows.Insert(appendKey(nil, b.kind.fields(row)[:b.kind.primary]...), row); taken {
		return &ConflictError{Table: b.kind.table, Index: "primary key"}
	}
	for i, x := range b.kind.indexes {
		if at := x.of(row); at != nil {
			if _, taken := b.indexes[i].Insert(appendKey(nil, at...), row); taken {
				return &ConflictError{Table: b.kind.table, Index: x.name}
			}
		}
	}
	if b.kind.group != nil {
		b.counts[string(appendKey(buf[:0], b.kind.group(row)...))]++
	}
	return nil
}

func (b *builder[T]) table() table[T] {
	t := newTable(b.kind)
	t.rows = b.rows.Commit()
	for i := range b.kind.indexes {
		t.indexes[i] = b.indexes[i].Commit()
	}
	for group, n := range b.counts {
		t.counts, _, _ = t.counts.Insert([]byte(group), n)
	}
	return t
}
