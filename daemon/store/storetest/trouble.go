package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cmkd/daemon/store"
)

// testBusy: changes that come while the database is locked fail together, and
// before anything is done for them.
func testBusy(t *testing.T, db Database) {
	s := adopted(t, db)
	release := db.Hold(t)
	var ran atomic.Int32
	change := func(ctx context.Context) error {
		return s.Update(ctx, func(tx *store.Tx) error {
			ran.Add(1)
			return tx.PutSetting(&store.Setting{Name: "busy", Value: "1"})
		})
	}
	began := time.Now()
	if err := change(t.Context()); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a change of a locked database: %v", err)
	}
	wait := time.Since(began) // of one
	began = time.Now()
	const callers = 20
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := change(t.Context()); !errors.Is(err, store.ErrBusy) || !errors.Is(err, store.ErrUnwritable) {
				t.Errorf("a change of a locked database: %v", err)
			}
		})
	}
	all.Wait()
	// One after the other they would need twice as long, on any machine.
	if took := time.Since(began); took >= callers/2*wait {
		t.Errorf("%d changes failed after %s: one after the other", callers, took)
	}
	if ran.Load() > 0 {
		t.Errorf("%d changes began", ran.Load())
	}
	if !errors.Is(s.Err(), store.ErrBusy) || !errors.Is(s.Probe(t.Context()), store.ErrBusy) {
		t.Errorf("Err: %v", s.Err())
	}
	select {
	case <-s.Broken():
	default:
		t.Error("nobody is told")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := change(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a change whose caller has gone: %v", err)
	}
	release()
	if err := s.Probe(t.Context()); err != nil || s.Err() != nil {
		t.Errorf("with the lock released: %v, %v", err, s.Err())
	}
	if err := change(t.Context()); err != nil {
		t.Error(err)
	}
	// A short lock is waited for.
	release = db.Hold(t)
	time.AfterFunc(50*time.Millisecond, release)
	if err := change(t.Context()); err != nil {
		t.Errorf("a change while the database is locked for a moment: %v", err)
	}
}

// testUnknown: what the disk answers to a commit is not believed. The rows that
// a restart would find are found, or nothing is written until they are.
func testUnknown(t *testing.T, db Database) {
	u := &unknown{Store: Open(t, db)}
	for _, c := range []struct{ head, committed bool }{{false, true}, {false, false}, {true, true}, {true, false}} {
		t.Run(fmt.Sprintf("head=%t,committed=%t", c.head, c.committed), func(t *testing.T) {
			if c.head && u.Found() == nil {
				if err := u.Adopt(t.Context(), Sealer{}, u.View().Root(), Sample); err != nil {
					t.Fatal(err)
				}
			}
			u.test(t, db, c.committed)
		})
	}
}

// unknown is a store and what it says about commits.
type unknown struct {
	*store.Store
	settled []bool
	deaf    error // of who is to be told
}

func (u *unknown) put(ctx context.Context, value string) error {
	return u.Update(ctx, func(tx *store.Tx) error {
		tx.OnSettle(func(_ context.Context, committed bool) error {
			if u.deaf == nil {
				u.settled = append(u.settled, committed)
			}
			return u.deaf
		})
		return tx.PutSetting(&store.Setting{Name: "unknown", Value: value})
	})
}

func (u *unknown) test(t *testing.T, db Database, committed bool) {
	t.Helper()
	if err := u.put(t.Context(), "0"); err != nil {
		t.Fatal(err)
	}
	u.settled = nil
	takeBack := db.Copy(t)
	db.AfterCommit(func() error {
		if !committed {
			takeBack()
		}
		return syscall.EIO
	})
	if err := u.put(t.Context(), "1"); !errors.Is(err, store.ErrUnknown) || !errors.Is(err, store.ErrUnwritable) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("a commit that may be in the database: %v", err)
	}
	if now, _ := u.View().Setting("unknown"); now.Value != "0" || u.Err() == nil || len(u.settled) > 0 {
		t.Errorf("shown %v, %v, %v", now, u.Err(), u.settled)
	}
	release := db.Hold(t) // now it cannot be made certain
	if err := u.Settle(t.Context()); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("Settle: %v", err)
	}
	if err := u.put(t.Context(), "2"); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("the next change: %v", err)
	}
	release()
	db.AfterCommit(nil)
	u.deaf = errors.New("deaf")
	for range 2 { // before anything else is committed, f has been told
		if err := u.put(t.Context(), "2"); !errors.Is(err, u.deaf) || !errors.Is(err, store.ErrUnknown) {
			t.Errorf("a change of which nobody could be told: %v", err)
		}
	}
	u.deaf = nil
	if err := u.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[bool]string{true: "1", false: "0"}[committed]
	if now, _ := u.View().Setting("unknown"); now.Value != want || !slices.Equal(u.settled, []bool{committed}) || u.Err() != nil {
		t.Errorf("settled %v: %+v, %v", u.settled, now, u.Err())
	}
	if err := u.put(t.Context(), "3"); err != nil || len(u.settled) != 1 {
		t.Errorf("%v, settled %v", err, u.settled)
	}
	if err := u.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// testFull: what there is no room for changes nothing, and once there is room,
// changes are made again. An engine that cannot tell finds out by then.
func testFull(t *testing.T, db Database) {
	s := adopted(t, db)
	release := db.Fill(t)
	fill := func(i int) error {
		k := Key(i)
		k.Policy = strings.Repeat("p", 32<<10)
		return s.Update(t.Context(), func(tx *store.Tx) error { return errors.Join(tx.PutKey(k), tx.PutVersion(Version(i))) })
	}
	i, err, before := 10, error(nil), s.View()
	for ; err == nil && i < 1000; i++ {
		before = s.View()
		err = fill(i)
	}
	if !errors.Is(err, store.ErrUnwritable) || !errors.Is(s.Err(), store.ErrUnwritable) || s.View() != before {
		t.Fatalf("full: %v, %v, the snapshot has changed: %t", err, s.Err(), s.View() != before)
	}
	select {
	case <-s.Broken():
	default:
		t.Error("nobody is told")
	}
	release()
	if err := errors.Join(s.Probe(t.Context()), s.Err(), fill(i), s.Check(t.Context()), s.Close()); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	made := false
	if errors.Is(err, store.ErrUnknown) {
		_, made = s.View().Key(Key(i-1).Region, Key(i-1).ID)
	}
	v := Open(t, db).View()
	for n := 10; n <= i; n++ {
		_, key := v.Key(Key(n).Region, Key(n).ID)
		_, version := v.CurrentVersion(Key(n).ID)
		if want := n != i-1 || made; key != want || version != want {
			t.Errorf("key %d: key %t, version %t, want %t", n, key, version, want)
		}
	}
}
