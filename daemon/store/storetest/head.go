package storetest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"testing"

	"cmkd/daemon/store"
)

// adopted is a store with the Sample's rows and a head.
func adopted(t testing.TB, db Database) *store.Store {
	t.Helper()
	s := Open(t, db)
	Adopt(t, s)
	return s
}

// Adopt writes the sample's rows, and the first head.
func Adopt(t testing.TB, s *store.Store) {
	t.Helper()
	Update(t, s, Sample)
	if err := s.Adopt(context.Background(), Sealer{}, s.View().Root(), func(*store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// testHead: the hash that is kept as rows change is the hash of the file, each
// commit has a head, and nothing is written before the head is verified.
func testHead(t *testing.T, db Database) {
	s := adopted(t, db)
	Update(t, s, func(tx *store.Tx) error {
		tx.DeleteKey(Region, Key(2).ID)
		k := Key(1)
		k.Description = "changed"
		return errors.Join(tx.PutKey(k), tx.PutKey(Key(7)))
	})
	root, changes := s.View().Root(), s.Changes()
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	found, err := s.Compare(t.Context())
	if err != nil || len(found.Rows) != 0 || !bytes.Equal(found.Root, root) || !bytes.Equal(found.Now, root) {
		t.Errorf("Compare: %+v, %v", found, err)
	}
	Update(t, s, func(tx *store.Tx) error {
		tx.Bookkeeping()
		return tx.PutSetting(&store.Setting{Name: "clock", Value: "1"})
	})
	if s.Changes() != changes {
		t.Error("bookkeeping counts as a change")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = Open(t, db)
	sealed := s.Found()
	head, err := sealed.Head()
	if err != nil || head.Sequence != 3 || !hmac.Equal(sealed.MAC, Sealer{}.MAC(sealed.Message())) {
		t.Fatalf("head %+v, %v", head, err)
	}
	if err := s.Update(t.Context(), Sample); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("Update before Resume: %v", err)
	}
	other := *head
	other.Root = root
	if err := s.Resume(t.Context(), Sealer{}, &other); !errors.Is(err, store.ErrChanged) {
		t.Errorf("Resume with another root: %v", err)
	}
	if err := s.Resume(t.Context(), Sealer{}, head); err != nil {
		t.Fatal(err)
	}
	Update(t, s, func(tx *store.Tx) error { return tx.PutKey(Key(8)) })
	if err := s.Lock(t.Context(), "why"); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), Sample); !errors.Is(err, store.ErrUnverified) {
		t.Errorf("Update of a locked store: %v", err)
	}
}

// testUnsealed: a commit that cannot be authenticated changes nothing.
func testUnsealed(t *testing.T, db Database) {
	s := adopted(t, db)
	head, err := s.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	away := errors.New("the token is away")
	if err := s.Resume(t.Context(), Sealer{Err: away}, head); err != nil {
		t.Fatal(err)
	}
	before := s.View()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutKey(Key(9)) }); !errors.Is(err, away) {
		t.Errorf("Update: %v", err)
	}
	if s.View() != before {
		t.Error("the snapshot has changed")
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("the file has changed: %v", err)
	}
}

// testAdoptOther: only what was looked at is adopted.
func testAdoptOther(t *testing.T, db Database) {
	s := adopted(t, db)
	root := s.View().Root()
	db.DeleteRows(t, "grants")
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrChanged) {
		t.Errorf("Check: %v", err)
	}
	nothing := func(*store.Tx) error { return nil }
	if err := s.Adopt(t.Context(), Sealer{}, root, nothing); !errors.Is(err, store.ErrChanged) {
		t.Errorf("Adopt of what was there: %v", err)
	}
	found, err := s.Compare(t.Context())
	if err != nil || len(found.Rows) == 0 || found.Rows[0].Kind != "missing" || !bytes.Equal(found.Root, root) {
		t.Fatalf("Compare: %+v, %v", found, err)
	}
	if err := s.Adopt(t.Context(), Sealer{}, found.Now, nothing); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil || s.View().GrantCount(Region, Key(1).ID) != 0 {
		t.Errorf("after Adopt: %v, %d grants", err, s.View().GrantCount(Region, Key(1).ID))
	}
}

// testRolledBack: a database that somebody has put back to what it was is not
// taken for what was committed, and not written over if several may write to it.
func testRolledBack(t *testing.T, db Database) {
	s := adopted(t, db)
	restore := db.Copy(t)
	was := s.View().Root()
	put := func(value string) error {
		return s.Update(t.Context(), func(tx *store.Tx) error { return tx.PutSetting(&store.Setting{Name: "after", Value: value}) })
	}
	if err := put("the copy"); err != nil {
		t.Fatal(err)
	}
	before := s.View()
	restore()
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrChanged) {
		t.Errorf("Check: %v", err)
	}
	if db.Shared() {
		if err := put("the rollback"); !errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("a commit over a head that it does not follow: %v", err)
		}
	}
	if s.View() != before || s.Err() != nil {
		t.Errorf("the refused commit changed the snapshot, or counts as trouble: %v", s.Err())
	}
	found, err := s.Compare(t.Context())
	if err != nil || len(found.Rows) != 0 || !bytes.Equal(found.Now, was) {
		t.Fatalf("the refused commit is in the database: %+v, %v", found, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = Open(t, db) // whose head is of the past: that is for the caller to find out
	if head, err := s.Found().Head(); err != nil || head.Sequence != 1 || !bytes.Equal(head.Root, was) {
		t.Errorf("head %+v, %v", head, err)
	}
	if err := s.Adopt(t.Context(), Sealer{}, was, func(*store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(put("it was adopted"), s.Check(t.Context())); err != nil {
		t.Error(err)
	}
}

// testAdoptAgain: the digests of an adopted database are of the rows as they were
// found and as the adoption leaves them.
func testAdoptAgain(t *testing.T, db Database) {
	s := adopted(t, db)
	db.DeleteRows(t, "usages")
	found, err := s.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(t.Context(), Sealer{}, found.Now, func(tx *store.Tx) error {
		tx.DeleteIntent([]byte{0, 1})
		return tx.PutSetting(&store.Setting{Name: "adopted", Value: "1"})
	}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Compare(t.Context())
	if err != nil || len(after.Rows) != 0 || !bytes.Equal(after.Root, s.View().Root()) || !bytes.Equal(after.Now, after.Root) {
		t.Errorf("%+v, %v", after, err)
	}
}
