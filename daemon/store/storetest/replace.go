package storetest

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"cmkd/daemon/store"
)

// rowsOf are the rows of the store, as a backup has them, and its head.
func rowsOf(t *testing.T, s *store.Store) (rows []*store.Row, head *store.Sealed) {
	t.Helper()
	view, head, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range view.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, &store.Row{Table: r.Table, Document: r.Document})
	}
	if root, err := store.RootOf(view.Rows()); err != nil || !bytes.Equal(root, view.Root()) {
		t.Fatalf("the rows have another hash than the view: %v", err)
	}
	return rows, head
}

// plan compares the rows with the database.
func plan(t *testing.T, db Database, rows []*store.Row, head *store.Sealed, work func(*store.Replacement)) {
	t.Helper()
	e, err := db.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.NewReplacement(t.Context(), e, rows, head)
	if err != nil {
		t.Fatal(err)
	}
	work(r)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// testReplace: all rows are replaced in one commit by those of an earlier one, which
// verify with their head then. What differs is told before.
func testReplace(t *testing.T, db Database) {
	s := adopted(t, db)
	rows, head := rowsOf(t, s)
	root := s.View().Root()
	Update(t, s, func(tx *store.Tx) error {
		k, v, w := Key(1), *Version(2), *Version(2)
		k.Description = "changed"
		w.Number, v.CKAID = 2, []byte("the second of it") // the two change places
		tx.DeleteAlias(Region, "alias/a")
		tx.DeleteVersion(v.KeyID, 2)
		return errors.Join(tx.PutKey(k), tx.PutKey(Key(3)), tx.PutVersion(&v),
			tx.PutVersion(&store.Version{KeyID: w.KeyID, Number: 2, CKAID: Version(2).CKAID, MaterialID: "x", State: "NON_CURRENT"}))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var before []byte
	plan(t, db, rows, head, func(r *store.Replacement) {
		found := map[string]string{}
		for _, d := range r.Differences {
			found[d.Table+" "+d.Row] = d.Kind
		}
		if want := map[string]string{
			"keys " + store.RowName([]any{Region, Key(1).ID}): "changed", "keys " + store.RowName([]any{Region, Key(3).ID}): "removed",
			"aliases " + store.RowName([]any{Region, "alias/a"}):    "added",
			"versions " + store.RowName([]any{Version(2).KeyID, 1}): "changed", "versions " + store.RowName([]any{Version(2).KeyID, 2}): "changed",
		}; !maps.Equal(found, want) || r.Same() || !bytes.Equal(r.After, root) {
			t.Errorf("it differs in %v, want %v", found, want)
		}
		before = r.Before
	})
	plan(t, db, rows, head, func(r *store.Replacement) {
		if !bytes.Equal(before, r.Before) {
			t.Error("a comparison has changed something")
		}
		if err := r.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	plan(t, db, rows, head, func(r *store.Replacement) {
		if !r.Same() {
			t.Errorf("after it, %v differ", r.Differences)
		}
	})
	s = Open(t, db)
	CheckSample(t, s.View())
	if found, err := s.Compare(t.Context()); err != nil || len(found.Rows) != 0 || !bytes.Equal(found.Root, root) {
		t.Errorf("the digests beside the rows: %+v, %v", found, err)
	}
	at, err := s.Found().Head()
	if err != nil || !s.Found().Equal(head) {
		t.Fatalf("the head is %v, %v", at, err)
	}
	if err := s.Resume(t.Context(), Sealer{}, at); err != nil {
		t.Errorf("the rows are not those of the head: %v", err)
	}
	Update(t, s, func(tx *store.Tx) error { return tx.PutKey(Key(8)) })
	refusesReplacement(t, db, s, rows)
}

// refusesReplacement: rows that no store would open are refused before anything changes.
func refusesReplacement(t *testing.T, db Database, s *store.Store, rows []*store.Row) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := db.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	for what, more := range map[string]*store.Row{
		"a row twice":     rows[0],
		"a strange table": {Table: "nonsense", Document: []byte(`{}`)},
		"a newer member":  {Table: "settings", Document: []byte(`{"Name":"a","Newer":1}`)},
		"a nameless row":  {Table: "settings", Document: []byte(`{}`)},
	} {
		if _, err := store.NewReplacement(t.Context(), e, append(rows[:len(rows):len(rows)], more), nil); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}
