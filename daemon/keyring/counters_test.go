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
// more. Once all of them are on record, the database is not written any more.
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
// beyond what is on record, and no more.
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
