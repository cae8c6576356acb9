package keyring

import (
	"errors"
	"testing"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	"cmkd/socket/kmsapi"
)

// counted opens a store with a version that has made so many encryptions.
func counted(t *testing.T, encryptions uint64) (*store.Store, *store.Version) {
	t.Helper()
	db := storetest.NewStore(t)
	v := &store.Version{KeyID: "k", Number: 1, CKAID: NewCKAID(), MaterialID: "m", State: "CURRENT", Encryptions: encryptions}
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.PutKey(&store.Key{Region: "r", ID: "k"}), tx.PutVersion(v))
	}); err != nil {
		t.Fatal(err)
	}
	return db, v
}

// TestExhaustedVersion: a version makes 2^32 encryptions, as NIST allows, and no
// more. Once all of them are recorded, the database is not written any more.
func TestExhaustedVersion(t *testing.T) {
	t.Parallel()
	const left = 20
	db, v := counted(t, 1<<32-left)
	cs := new(counters)
	var last *store.View
	for n := range left {
		if err := cs.Take(t.Context(), db, v); err != nil {
			t.Fatalf("encryption 2^32-%d: %v", left-n, err)
		}
		cs.work.Wait()
		view := db.View()
		if now, ok := view.VersionByCKAID(v.CKAID); !ok || now.Encryptions != 1<<32 {
			t.Fatalf("on record are %d, want 2^32", now.Encryptions)
		}
		if n > 0 && view != last {
			t.Fatalf("encryption 2^32-%d writes the database again", left-n)
		}
		last = view
	}
	for range 3 {
		err := cs.Take(t.Context(), db, v)
		if e, ok := journal.AsError[*kmsapi.Error](err); !ok || e.Code != kmsapi.CodeLimitExceededException {
			t.Fatalf("encryption 2^32+1: %v", err)
		}
	}
	if used := cs.Used(v); used != 1<<32 {
		t.Errorf("used are %d", used)
	}
}

// TestCredit: while the database cannot be written, a version makes 2^20 encryptions
// beyond what is recorded, and no more.
func TestCredit(t *testing.T) {
	t.Parallel()
	const onRecord, credit = 1000, 1 << 20
	db, v := counted(t, onRecord)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cs := new(counters)
	cs.of(v).used.Store(onRecord + credit - 3)
	for n := range 3 {
		if err := cs.Take(t.Context(), db, v); err != nil {
			t.Fatalf("encryption %d of the credit: %v", credit-2+n, err)
		}
	}
	for range 3 {
		if err := cs.Take(t.Context(), db, v); err == nil {
			t.Fatal("an encryption beyond the credit is made")
		}
	}
	cs.work.Wait()
}

// TestBlocksOfSeveral: the recorded blocks of several nodes add up, and what each has not used
// it gives back.
func TestBlocksOfSeveral(t *testing.T) {
	t.Parallel()
	disk := storetest.NewSharedDisk()
	first := storetest.Open(t, disk)
	v := &store.Version{KeyID: "k", Number: 1, CKAID: NewCKAID(), MaterialID: "m", State: "CURRENT", Encryptions: 100}
	if err := first.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.PutKey(&store.Key{Region: "r", ID: "k"}), tx.PutVersion(v))
	}); err != nil {
		t.Fatal(err)
	}
	dbs := []*store.Store{first, storetest.Open(t, disk)}
	nodes := []*counters{{}, {}}
	want := v.Encryptions
	onRecord := func(db *store.Store) uint64 {
		t.Helper()
		if err := db.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, ok := db.View().VersionByCKAID(v.CKAID)
		if !ok {
			t.Fatal("the version has gone")
		}
		return now.Encryptions
	}
	for range 3 {
		for i, n := range []int{7, 11} {
			for range n {
				if err := nodes[i].Take(t.Context(), dbs[i], v); err != nil {
					t.Fatal(err)
				}
			}
			nodes[i].work.Wait()
			want += uint64(n)
		}
	}
	if now := onRecord(first); now < v.Encryptions+2*minBlock || now > want+2*minBlock {
		t.Errorf("with a block each on record are %d", now)
	}
	for i, cs := range nodes {
		if err := cs.Settle(t.Context(), dbs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if now := onRecord(first); now != want {
		t.Errorf("in the end on record are %d, want %d", now, want)
	}
}

// TestExhaustedBySeveral: several nodes make no more than 2^32 encryptions together, even if one
// has yet to hear that another has the last of them.
func TestExhaustedBySeveral(t *testing.T) {
	t.Parallel()
	const left = 20
	disk := storetest.NewSharedDisk()
	first := storetest.Open(t, disk)
	v := &store.Version{KeyID: "k", Number: 1, CKAID: NewCKAID(), MaterialID: "m", State: "CURRENT", Encryptions: 1<<32 - left}
	storetest.Update(t, first, func(tx *store.Tx) error {
		return errors.Join(tx.PutKey(&store.Key{Region: "r", ID: "k"}), tx.PutVersion(v))
	})
	dbs := []*store.Store{first, storetest.Open(t, disk)}
	nodes := []*counters{{}, {}}
	made := 0
	for range left + 1 {
		for i, cs := range nodes {
			err := cs.Take(t.Context(), dbs[i], v)
			if e, ok := journal.AsError[*kmsapi.Error](err); err != nil && (!ok || e.Code != kmsapi.CodeLimitExceededException) {
				t.Fatal(err)
			}
			if err == nil {
				made++
			}
		}
	}
	for _, cs := range nodes {
		cs.work.Wait()
	}
	if made != left {
		t.Errorf("%d encryptions are made of %d", made, left)
	}
}
