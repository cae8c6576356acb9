package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cmkd/daemon/store"
)

// model is what the store should hold, in plain maps.
type model struct {
	keys   map[string]*store.Key
	grants map[string]*store.Grant
}

func (m *model) clone() *model { return &model{maps.Clone(m.keys), maps.Clone(m.grants)} }

// testModel runs random transactions, some of which fail, and compares each
// snapshot, and what opening the store again reads, with the model.
func testModel(t *testing.T, db Database) {
	rapid.Check(t, func(t *rapid.T) {
		s := reopened(t, nil, db)
		defer func() { _ = s.Close() }()
		m := &model{map[string]*store.Key{}, map[string]*store.Grant{}}
		if err := s.Update(context.Background(), deleteKeys); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(t, "transactions") {
			next, abort := m.clone(), rapid.Bool().Draw(t, "abort")
			errAbort := errors.New("abort")
			err := s.Update(context.Background(), func(tx *store.Tx) error {
				for range rapid.IntRange(0, 6).Draw(t, "writes") {
					if err := next.step(t, tx); err != nil {
						return err
					}
					next.compare(t, &tx.View)
				}
				if abort {
					return errAbort
				}
				return nil
			})
			switch {
			case abort && errors.Is(err, errAbort):
			case err != nil:
				t.Fatal(err)
			default:
				m = next
			}
			m.compare(t, s.View())
			if rapid.IntRange(0, 3).Draw(t, "reopen") == 0 {
				s = reopened(t, s, db)
				m.compare(t, s.View())
			}
		}
	})
}

// reopened closes the store, if there is one, and opens it again.
func reopened(t *rapid.T, s *store.Store, db Database) *store.Store {
	t.Helper()
	if s != nil {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openStore(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deleteKeys deletes what another run has left.
func deleteKeys(tx *store.Tx) error {
	for k := range tx.AllKeys() {
		tx.DeleteKey(k.Region, k.ID)
	}
	return nil
}

var names = rapid.SampledFrom([]string{"a", "ab", "b", "é", "ÿ"})

func (m *model) step(t *rapid.T, tx *store.Tx) error {
	k := Key(0)
	k.Region, k.ID = names.Draw(t, "region"), names.Draw(t, "key")
	at := fmt.Sprintf("%q %q", k.Region, k.ID)
	g := &store.Grant{
		Region: k.Region, KeyID: k.ID, ID: at + names.Draw(t, "grant"),
		Grantee: names.Draw(t, "grantee"), Retiring: rapid.SampledFrom([]string{"", "a", "ab"}).Draw(t, "retiring"),
	}
	_, there := m.keys[at]
	switch action := rapid.IntRange(0, 4).Draw(t, "action"); {
	case action == 0:
		if tx.DeleteKey(k.Region, k.ID) != there {
			t.Fatalf("DeleteKey: want %t", there)
		}
		delete(m.keys, at)
		maps.DeleteFunc(m.grants, func(_ string, g *store.Grant) bool { return g.Region == k.Region && g.KeyID == k.ID })
	case action == 1:
		_, granted := m.grants[g.ID]
		if tx.DeleteGrant(g.Region, g.KeyID, g.ID) != granted {
			t.Fatalf("DeleteGrant: want %t", granted)
		}
		delete(m.grants, g.ID)
	case action == 2 || !there:
		k.Description = names.Draw(t, "description")
		m.keys[at] = k
		return tx.PutKey(k)
	default:
		m.grants[g.ID] = g
		return tx.PutGrant(g)
	}
	return nil
}

func (m *model) compare(t *rapid.T, v *store.View) {
	t.Helper()
	want := slices.SortedFunc(maps.Values(m.keys), func(a, b *store.Key) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.ID, b.ID))
	})
	describe := func(k *store.Key) string { return fmt.Sprint(k.Region, k.ID, k.Description) }
	equal(t, "keys", list(v.AllKeys(), describe), want, describe)
	regions := map[string]int{}
	for _, k := range want {
		regions[k.Region]++
		got, ok := v.Key(k.Region, k.ID)
		if !ok || got.Description != k.Description {
			t.Fatalf("key %s %s: %+v", k.Region, k.ID, got)
		}
		m.compareGrants(t, v, k)
	}
	for r, n := range regions {
		if v.KeyCount(r) != n {
			t.Fatalf("KeyCount %d, want %d", v.KeyCount(r), n)
		}
	}
	granted := 0
	for _, k := range want {
		granted += v.GrantCount(k.Region, k.ID)
	}
	if granted != len(m.grants) {
		t.Fatalf("%d grants, want %d", granted, len(m.grants))
	}
}

func (m *model) compareGrants(t *rapid.T, v *store.View, k *store.Key) {
	t.Helper()
	describe := func(g *store.Grant) string { return fmt.Sprint(g.ID, g.Grantee, g.Retiring) }
	grants := func(keep func(*store.Grant) bool) []*store.Grant {
		var out []*store.Grant
		for _, id := range slices.Sorted(maps.Keys(m.grants)) {
			if g := m.grants[id]; g.Region == k.Region && keep(g) {
				out = append(out, g)
			}
		}
		return out
	}
	of := grants(func(g *store.Grant) bool { return g.KeyID == k.ID })
	equal(t, "GrantsOf", list(v.GrantsOf(k.Region, k.ID, ""), describe), of, describe)
	if v.GrantCount(k.Region, k.ID) != len(of) {
		t.Fatalf("GrantCount %d, want %d", v.GrantCount(k.Region, k.ID), len(of))
	}
	equal(t, "GrantsByGrantee", list(v.GrantsByGrantee(k.Region, k.ID, "ab"), describe),
		grants(func(g *store.Grant) bool { return g.KeyID == k.ID && g.Grantee == "ab" }), describe)
	equal(t, "GrantsByRetiring", list(v.GrantsByRetiring(k.Region, "a", ""), describe),
		grants(func(g *store.Grant) bool { return g.Retiring == "a" }), describe)
	if len(of) > 0 {
		equal(t, "GrantsOf after", list(v.GrantsOf(k.Region, k.ID, of[0].ID), describe), of[1:], describe)
	}
}

func equal[T any](t *rapid.T, what string, got []string, rows []*T, describe func(*T) string) {
	t.Helper()
	want := list(slices.Values(rows), describe)
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}
