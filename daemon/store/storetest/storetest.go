// Package storetest has the suite that every [store.Engine] passes, and an engine
// in memory for tests that need no disk.
package storetest

import (
	"context"
	"errors"
	"testing"

	"cmkd/daemon/store"
)

// Database is an empty database that the suite opens and spoils.
type Database interface {
	// Open opens it.
	Open(ctx context.Context) (store.Engine, error)
	// Shared reports whether several engines can be open at once: they are [store.Shared].
	Shared() bool
	// Hold keeps it locked until release, as another process would that writes.
	Hold(t testing.TB) (release func())
	// Fill leaves little room, less than 32 MB, in the database that is open,
	// until release.
	Fill(t testing.TB) (release func())
	// AfterCommit makes f speak for the disk once a commit is in the database: an
	// error of f is what the engine gets for it. Nil ends that.
	AfterCommit(f func() error)
	// Copy copies the database, open or closed. What it returns puts the copy back.
	Copy(t testing.TB) (restore func())
	// Crash is the database as a crash of the machine would leave it at this moment.
	// The one that is open stays as it is.
	Crash(t testing.TB) Database
	// Overwrite replaces the documents of all rows of a table behind the engine's
	// back, but not what is stored beside them.
	Overwrite(t testing.TB, table, document string)
	// DeleteRows deletes all rows of a table behind the engine's back, but not
	// what is stored beside them.
	DeleteRows(t testing.TB, table string)
}

// Run runs the suite, with a fresh database for each test.
func Run(t *testing.T, fresh func(t *testing.T) Database) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, db Database)
	}{
		{"Reads", testReads},
		{"DeleteKey", testDeleteKey},
		{"Refused", testRefused},
		{"Rotation", testRotation},
		{"Copies", testCopies},
		{"WaitAndClose", testWaitAndClose},
		{"Concurrent", testConcurrent},
		{"Model", testModel},
		{"Head", testHead},
		{"Unsealed", testUnsealed},
		{"AdoptOther", testAdoptOther},
		{"AdoptAgain", testAdoptAgain},
		{"RolledBack", testRolledBack},
		{"Busy", testBusy},
		{"Unknown", testUnknown},
		{"Full", testFull},
		{"Second", testSecond},
		{"Turns", testTurns},
		{"Follows", testFollows},
		{"Spoiled", testSpoiled},
		{"Crash", testCrash},
		{"Corrupt", testCorrupt},
		{"Big", testBig},
		{"Engine", testEngine},
		{"Copy", testCopy},
		{"Replace", testReplace},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, fresh(t))
		})
	}
}

func openStore(ctx context.Context, db Database) (*store.Store, error) {
	engine, err := db.Open(ctx)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, engine)
}

// Open opens a store on the database, which is closed with the test.
func Open(t testing.TB, db Database) *store.Store {
	t.Helper()
	s, err := openStore(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// testSecond: another process cannot open the database, or if it can, it follows.
func testSecond(t *testing.T, db Database) {
	first := adopted(t, db)
	second, err := openStore(t.Context(), db)
	if !db.Shared() {
		if !errors.Is(err, store.ErrLocked) {
			t.Errorf("the database of another: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		Open(t, db)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	head, err := second.Found().Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Resume(t.Context(), Sealer{}, head); err != nil {
		t.Fatal(err)
	}
	Update(t, first, func(tx *store.Tx) error { return tx.PutKey(Key(11)) })
	if err := second.Check(t.Context()); err != nil {
		t.Errorf("Check of a store that was behind: %v", err)
	}
	Update(t, second, func(tx *store.Tx) error {
		if _, ok := tx.Key(Region, Key(11).ID); !ok {
			t.Error("a transaction does not see what the other has committed")
		}
		return tx.PutKey(Key(12))
	})
	if err := first.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}
