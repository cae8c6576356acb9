package storetest

import (
	"bytes"
	"errors"
	"testing"

	"cmkd/daemon/store"
)

// testCopy copies the database to a disk in memory and back: rows and head are the same
// byte for byte, and nothing is copied over anything.
func testCopy(t *testing.T, db Database) {
	disk := NewDisk()
	first := Open(t, disk)
	Adopt(t, first)
	Update(t, first, func(tx *store.Tx) (err error) {
		for i := range 300 { // more than one transaction takes
			err = errors.Join(err, tx.PutKey(Key(100+i)))
		}
		return err
	})
	into, err := db.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Copy(t.Context(), into); err != nil {
		t.Fatal(err)
	}
	if err := first.Copy(t.Context(), into); !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("over another: %v", err)
	}
	if err := into.Close(); err != nil {
		t.Fatal(err)
	}
	second := Open(t, db)
	if !second.Found().Equal(first.Found()) || !bytes.Equal(second.View().Root(), first.View().Root()) {
		t.Error("the copy differs")
	}
	if found, err := second.Compare(t.Context()); err != nil || len(found.Rows) > 0 {
		t.Errorf("the digests of the copy: %+v, %v", found, err)
	}
	back := NewDisk()
	again, err := back.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(second.Copy(t.Context(), again), again.Close()); err != nil {
		t.Fatal(err)
	}
	third := Open(t, back)
	if !third.Found().Equal(first.Found()) || !bytes.Equal(third.View().Root(), first.View().Root()) {
		t.Error("the copy of the copy differs")
	}
	empty, err := NewDisk().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := Open(t, NewDisk()).Copy(t.Context(), empty); err == nil {
		t.Error("a database without a head was copied")
	}
	if err := empty.Close(); err != nil {
		t.Error(err)
	}
}
