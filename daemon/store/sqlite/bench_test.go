package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
)

// fill stores n keys, each with a version and an alias.
func fill(b *testing.B, s *store.Store, n int) {
	b.Helper()
	storetest.Update(b, s, func(tx *store.Tx) error {
		for i := range n {
			if err := errors.Join(tx.PutKey(storetest.Key(i)), tx.PutVersion(storetest.Version(i)), tx.PutAlias(&store.Alias{
				Region: storetest.Region, Name: fmt.Sprintf("alias/service-%d", i), KeyID: storetest.Key(i).ID,
			})); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		s := open(b, filepath.Join(b.TempDir(), "store.db"))
		fill(b, s, n)
		id, name := storetest.Key(n/2).ID, fmt.Sprintf("alias/service-%d", n/2)
		for _, c := range []struct {
			name string
			find func() bool
		}{
			{"Key", func() bool { _, ok := s.View().Key(storetest.Region, id); return ok }},
			{"Alias", func() bool { _, ok := s.View().Alias(storetest.Region, name); return ok }},
			{"CurrentVersion", func() bool { _, ok := s.View().CurrentVersion(id); return ok }},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !c.find() {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

// BenchmarkGrantsByGrantee looks for one principal's grants among n.
func BenchmarkGrantsByGrantee(b *testing.B) {
	for _, n := range []int{50, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "store.db"))
			storetest.Update(b, s, func(tx *store.Tx) error {
				err := tx.PutKey(storetest.Key(1))
				for i := range n {
					g := storetest.Grant(i)
					g.Grantee = fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", i)
					err = errors.Join(err, tx.PutGrant(g))
				}
				return err
			})
			b.ReportAllocs()
			for b.Loop() {
				for range s.View().GrantsByGrantee(storetest.Region, storetest.Key(1).ID, "arn:aws:iam::111122223333:user/u7") {
				}
			}
		})
	}
}

// BenchmarkUpdate changes one key in a store of n, without and with a head.
// The floor is one fsync.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		for _, headed := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/head=%t", n, headed), func(b *testing.B) {
				s := open(b, filepath.Join(b.TempDir(), "store.db"))
				fill(b, s, n)
				if headed {
					if err := s.Adopt(context.Background(), storetest.Sealer{}, s.View().Root(), func(*store.Tx) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
				for i := 0; b.Loop(); i++ {
					k := storetest.Key(3)
					k.Description = fmt.Sprint(i) // SQLite does not write what stays the same
					storetest.Update(b, s, func(tx *store.Tx) error { return tx.PutKey(k) })
				}
			})
		}
	}
}

// BenchmarkOpen opens a store of 10,000 keys, versions and aliases.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store.db")
	s := open(b, path)
	fill(b, s, 10_000)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(context.Background(), path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
