package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"
)

// Difference is a row that is not what it was at the last commit.
type Difference struct {
	Table string `json:"table"`
	Row   string `json:"row"`    // JSON array of the primary key
	Kind  string `json:"change"` // "changed", "added" or "missing"
}

// Differences are what [Store.Compare] finds.
type Differences struct {
	Rows []Difference // by table and row
	// Root is the hash over the rows as they were, by the digests that the
	// database keeps of them. If an authentic head has the same one, Rows is
	// exactly what was done; else the digests have been tampered with too.
	Root []byte
	Now  []byte // the hash over the rows as they are
}

type rowID struct{ table, name string }

// Compare checks the rows in the database against the digests beside them.
func (s *Store) Compare(ctx context.Context) (*Differences, error) {
	found := &Differences{}
	err := s.exclusively(ctx, func() error {
		kept := make(map[rowID][sha256.Size]byte)
		now := make(map[rowID]leaf)
		if _, err := s.engine.Load(ctx, Visitor{
			Digest: func(d *Digest) error {
				var sum [sha256.Size]byte
				copy(sum[:], d.Sum) // one of another length fits no row
				kept[rowID{d.Table, d.Name}] = sum
				return nil
			},
			Row: func(r *Row) error {
				now[rowID{r.Table, r.Name}] = newLeaf(r.Table, r.Name, r.Document)
				return nil
			},
		}); err != nil {
			return err
		}
		leaves := make([]leaf, 0, len(kept))
		for id, digest := range kept {
			leaves = append(leaves, leaf{place(id.table, id.name), digest})
			if _, there := now[id]; !there {
				found.Rows = append(found.Rows, Difference{id.table, id.name, "missing"})
			}
		}
		found.Root = newHashes(leaves).root()
		leaves = leaves[:0]
		for id, l := range now {
			leaves = append(leaves, l)
			switch digest, known := kept[id]; {
			case !known:
				found.Rows = append(found.Rows, Difference{id.table, id.name, "added"})
			case digest != l.digest:
				found.Rows = append(found.Rows, Difference{id.table, id.name, "changed"})
			}
		}
		found.Now = newHashes(leaves).root()
		return nil
	})
	slices.SortFunc(found.Rows, compareRows)
	return found, err
}

// compareRows orders differences for people.
func compareRows(a, b Difference) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Row, b.Row))
}
