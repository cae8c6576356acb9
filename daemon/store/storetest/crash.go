package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"cmkd/daemon/store"
)

// crashes is a sealer in whose place the machine stops: the rows are about to be
// committed.
type crashes struct {
	Sealer
	stop func()
}

// Seal implements [store.Sealer].
func (c crashes) Seal(ctx context.Context, view *store.View, head *store.Head) ([]byte, error) {
	c.stop()
	return c.Sealer.Seal(ctx, view, head)
}

// testCrash stops the machine before, in and after a commit, without and with a
// head: a start finds either all of the commit or nothing, and what was
// acknowledged it finds.
func testCrash(t *testing.T, db Database) {
	s := Open(t, db)
	Update(t, s, Sample)
	root := func() []byte { return s.View().Root() }
	left := func(db Database) *store.Store { return Open(t, db) }
	is := func(when string, db Database, want ...[]byte) {
		t.Helper()
		after := left(db)
		for _, w := range want {
			if bytes.Equal(after.View().Root(), w) {
				if head := after.Found(); head != nil {
					if h, err := head.Head(); err != nil || !bytes.Equal(h.Root, w) {
						t.Errorf("%s: the head is of another commit: %+v, %v", when, h, err)
					}
				}
				return
			}
		}
		t.Errorf("%s: the rows are those of no commit", when)
	}
	for _, headed := range []bool{false, true} {
		if headed {
			if err := s.Adopt(t.Context(), Sealer{}, root(), func(*store.Tx) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		change := func(value string, during func()) error {
			return s.Update(t.Context(), func(tx *store.Tx) error {
				k := Key(1)
				k.Description = value
				err := errors.Join(tx.PutKey(k), tx.PutSetting(&store.Setting{Name: "crash", Value: value}))
				during()
				return err
			})
		}
		before, name := root(), fmt.Sprintf("head=%t", headed)
		var within, sealing, committed Database
		if headed {
			head, err := s.Found().Head()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Resume(t.Context(), crashes{Sealer{}, func() { sealing = db.Crash(t) }}, head); err != nil {
				t.Fatal(err)
			}
		}
		db.AfterCommit(func() error { committed = db.Crash(t); return nil })
		if err := change(name, func() { within = db.Crash(t) }); err != nil {
			t.Fatal(err)
		}
		db.AfterCommit(nil)
		is(name+", while the changes are made", within, before)
		if headed {
			is(name+", before the commit", sealing, before)
		}
		is(name+", before the answer", committed, before, root())
		is(name+", after the answer", db.Crash(t), root())
	}
}

// testCorrupt: rows that this program cannot have written are refused, by the one
// that has them open and by the next that opens them.
func testCorrupt(t *testing.T, db Database) {
	s := adopted(t, db)
	for name, document := range map[string]string{
		"no JSON":       `{`,
		"unknown field": `{"Name":"account","Value":"1","Colour":"red"}`,
		"other type":    `{"Name":"account","Value":1}`,
		"other name":    `{"Name":"clock","Value":"1"}`,
	} {
		restore := db.Copy(t)
		db.Overwrite(t, "settings", document)
		if err := s.Check(t.Context()); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: Check: %v", name, err)
		}
		if after, err := openStore(t.Context(), db.Crash(t)); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: opened: %v", name, errors.Join(err, after.Close()))
		}
		if found, err := s.Compare(t.Context()); err != nil || len(found.Rows) != 1 || found.Rows[0].Table != "settings" || found.Rows[0].Kind != "changed" {
			t.Errorf("%s: Compare: %+v, %v", name, found, err)
		}
		restore()
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: with the row as it was: %v", name, err)
		}
	}
}

// testBig makes and undoes changes of thousands of rows in one commit.
func testBig(t *testing.T, db Database) {
	s := adopted(t, db)
	const grants = 5000
	before := s.View().Root()
	Update(t, s, func(tx *store.Tx) error {
		err := tx.PutKey(Key(1000))
		for i := range grants {
			g := Grant(1000 + i)
			g.KeyID = Key(1000).ID
			err = errors.Join(err, tx.PutGrant(g))
		}
		return err
	})
	if n := s.View().GrantCount(Region, Key(1000).ID); n != grants {
		t.Errorf("%d grants, want %d", n, grants)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	Update(t, s, func(tx *store.Tx) error {
		if !tx.DeleteKey(Region, Key(1000).ID) {
			t.Error("the key is not there")
		}
		return nil
	})
	if err := s.Check(t.Context()); err != nil || !bytes.Equal(s.View().Root(), before) {
		t.Errorf("after deletion: %v, the rows are those of before: %t", err, bytes.Equal(s.View().Root(), before))
	}
	if found, err := s.Compare(t.Context()); err != nil || len(found.Rows) > 0 {
		t.Errorf("Compare: %+v, %v", found, err)
	}
}
