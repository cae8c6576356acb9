package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"cmkd/daemon/store"
)

// second is another store on the database, which goes on after its head.
func second(t testing.TB, db Database) *store.Store {
	t.Helper()
	s := Open(t, db)
	head, err := s.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(context.Background(), Sealer{}, head); err != nil {
		t.Fatal(err)
	}
	return s
}

// follow joins and keeps up with the others until the test ends.
func follow(t testing.TB, s *store.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Join(ctx); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Arrived():
			}
			if err := s.Join(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("following: %v", err)
				return
			}
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

func value(s *store.Store, name string) string {
	if row, ok := s.View().Setting(name); ok {
		return row.Value
	}
	return ""
}

func put(s *store.Store, name, value string) error {
	return s.Update(context.Background(), func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: name, Value: value}) })
}

// testTurns: two stores on one database commit in turn. Each change is decided on all
// that were committed before, so that no commit loses a race.
func testTurns(t *testing.T, db Database) {
	if !db.Shared() {
		return
	}
	stores := []*store.Store{adopted(t, db), second(t, db)}
	const each, callers = 20, 2
	var all sync.WaitGroup
	for _, s := range stores {
		for range callers {
			all.Go(func() {
				for range each {
					if err := s.Update(context.Background(), func(tx *store.Tx) error {
						n := 0
						if row, ok := tx.Setting("n"); ok {
							n, _ = strconv.Atoi(row.Value)
						}
						return tx.PutSetting(&store.Setting{Name: "n", Value: strconv.Itoa(n + 1)})
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	for i, s := range stores {
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := value(s, "n"); got != strconv.Itoa(len(stores)*callers*each) {
			t.Errorf("store %d: %s changes", i, got)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("store %d: %v", i, err)
		}
	}
	if a, b := stores[0].View().Sequence(), stores[1].View().Sequence(); a != b || a != 1+uint64(len(stores)*callers*each) {
		t.Errorf("sequences %d and %d", a, b)
	}
}

// testFollows: what one store commits the others show, rows of each kind, large commits and those that
// delete, and it is Fresh only from Join to Leave.
func testFollows(t *testing.T, db Database) {
	if !db.Shared() {
		return
	}
	first, other := adopted(t, db), second(t, db)
	if err := other.Fresh(); !errors.Is(err, store.ErrStale) {
		t.Errorf("a store that has not joined: %v", err)
	}
	stopFirst := follow(t, first)
	stop := follow(t, other)
	if err := other.Fresh(); err != nil {
		t.Errorf("a store that has joined: %v", err)
	}
	same := func(what string) {
		t.Helper()
		if err := first.Await(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if a, b := first.View(), other.View(); string(a.Root()) != string(b.Root()) || a.Sequence() != b.Sequence() {
			t.Fatalf("%s: the other has other rows", what)
		}
	}
	Update(t, first, func(tx *store.Tx) error {
		return errors.Join(tx.PutKey(Key(5)), tx.PutKey(Key(6)), tx.PutVersion(Version(5)), tx.PutVersion(Version(6)))
	})
	for what, change := range map[string]func(tx *store.Tx) error{
		"nothing but the head": func(tx *store.Tx) error { tx.WriteHead(); return nil },
		"the same rows":        Sample,
		"a large one": func(tx *store.Tx) error {
			err := tx.PutKey(Key(1000))
			for i := range 1000 {
				g := Grant(1000 + i)
				g.KeyID = Key(1000).ID
				err = errors.Join(err, tx.PutGrant(g))
			}
			return err
		},
		"what is unique changes places": func(tx *store.Tx) error {
			a, b := Version(5), Version(6)
			a.CKAID, b.CKAID = b.CKAID, a.CKAID
			tx.DeleteVersion(a.KeyID, a.Number)
			tx.DeleteVersion(b.KeyID, b.Number)
			return errors.Join(tx.PutVersion(a), tx.PutVersion(b))
		},
	} {
		Update(t, first, change)
		same(what)
	}
	Update(t, first, func(tx *store.Tx) error {
		tx.DeleteKey(Region, Key(1000).ID)
		tx.DeleteKey(Region, Key(1).ID)
		for _, k := range tx.SystemKeys("main", "wrapping") {
			tx.DeleteSystemKey(k.Token, k.Purpose, k.Version)
		}
		tx.DeleteIntent([]byte{0, 1})
		tx.DeleteImportParameters([]byte{0xff, 0})
		return nil
	})
	same("deletions")
	changes := other.Changes()
	Update(t, first, func(tx *store.Tx) error {
		tx.Bookkeeping()
		return tx.PutSetting(&store.Setting{Name: "b", Value: "1"})
	})
	same("bookkeeping")
	if other.Changes() != changes {
		t.Error("bookkeeping of another counts as a change")
	}
	if err := put(first, "c", "1"); err != nil {
		t.Fatal(err)
	}
	same("a change")
	if other.Changes() != changes+1 {
		t.Error("a change of another does not count")
	}

	// One that does not follow is waited for, until it leaves: by answers that rest on what has changed.
	stop()
	waits := func(ids ...string) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := first.AwaitChanges(ctx, ids...)
		if err != nil && !errors.Is(err, store.ErrStale) {
			t.Fatal(err)
		}
		return err != nil
	}
	rests := func(what string, change func(tx *store.Tx) error, five, six, anything bool) {
		t.Helper()
		Update(t, first, change)
		if a, b, c := waits(Key(5).ID), waits(Key(6).ID), waits(); a != five || b != six || c != anything {
			t.Errorf("%s: waits for one key: %t, the other: %t, anything: %t", what, a, b, c)
		}
	}
	rests("bookkeeping", func(tx *store.Tx) error {
		tx.Bookkeeping()
		return tx.PutSetting(&store.Setting{Name: "b", Value: "2"})
	}, false, false, false)
	alias := &store.Alias{Region: Region, Name: "alias/moves", KeyID: Key(5).ID}
	rests("an alias of a key", func(tx *store.Tx) error { return tx.PutAlias(alias) }, true, false, true)
	moved := *alias
	moved.KeyID = Key(6).ID
	rests("it moves to another", func(tx *store.Tx) error { return tx.PutAlias(&moved) }, true, true, true)
	follow(t, other)()
	rests("a deletion", func(tx *store.Tx) error { tx.DeleteAlias(moved.Region, moved.Name); return nil }, false, true, true)
	rests("an intent", func(tx *store.Tx) error {
		return tx.PutIntent(&store.Intent{CKAID: []byte{7, 7}, KeyID: Key(5).ID, Region: Region, Token: "main"})
	}, false, true, true)
	rests("a setting", func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "c", Value: "9"}) }, true, true, true)
	if err := put(first, "c", "2"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := first.Await(ctx); !errors.Is(err, store.ErrStale) {
		t.Errorf("one that does not follow: %v", err)
	}
	other.Leave(t.Context())
	if err := other.Fresh(); !errors.Is(err, store.ErrStale) {
		t.Errorf("a store that has left: %v", err)
	}
	same2 := first.Await(t.Context())
	if same2 != nil || value(other, "c") != "1" {
		t.Errorf("after it has left: %v, %s", same2, value(other, "c"))
	}
	follow(t, other)
	same("it is back")
	if nodes := first.Nodes(); len(nodes) != 2 || !first.Leads() || other.Leads() {
		t.Errorf("nodes %+v", nodes)
	}
	stopFirst()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for !other.Leads() {
		time.Sleep(time.Millisecond)
	}
}

// testSpoiled: what somebody changes without a commit, and a commit that does not verify,
// are not shown, and stop the store that follows.
func testSpoiled(t *testing.T, db Database) {
	if !db.Shared() {
		return
	}
	first := adopted(t, db)
	forger := second(t, db)
	for name, spoil := range map[string]func(){
		"rows": func() { db.Overwrite(t, "settings", `{"Name":"account","Value":"2"}`) },
		"a commit that does not verify": func() {
			head, err := forger.Found().Head()
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(forger.Resume(t.Context(), forgers{}, head), put(forger, "forged", "1")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		before := first.View()
		restore := db.Copy(t)
		spoil()
		var err error
		for err == nil { // until it has come
			err = first.CatchUp(t.Context())
		}
		if !errors.Is(err, store.ErrChanged) || first.View() != before {
			t.Errorf("%s: %v", name, err)
		}
		if err := put(first, "after", name); !errors.Is(err, store.ErrChanged) {
			t.Errorf("%s: a change: %v", name, err)
		}
		restore()
		if err := first.Adopt(t.Context(), Sealer{}, before.Root(), func(*store.Tx) error { return nil }); err != nil {
			t.Fatalf("%s: adopted: %v", name, err)
		}
		if err := errors.Join(put(first, "after", name), first.Check(t.Context())); err != nil {
			t.Errorf("%s: after it was adopted: %v", name, err)
		}
		if err := forger.Close(); err != nil {
			t.Fatal(err)
		}
		forger = second(t, db)
	}
}

// forgers do not have the key.
type forgers struct{ Sealer }

// Seal implements [store.Sealer].
func (forgers) Seal(_ context.Context, _ *store.View, head *store.Head) ([]byte, error) {
	head.Time, head.Lineage, head.Epoch = Created, "lineage", 1
	return []byte(fmt.Sprintf("%032d", 1)), nil
}
