package store

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hold keeps the database locked, as another process would, until release.
func hold(t *testing.T, path string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(tx.Rollback(), db.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestBusy: changes that come while the database is locked fail together, and
// before anything is done for them.
func TestBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := adopted(t, path)
	release := hold(t, path)
	var ran atomic.Int32
	change := func(ctx context.Context) error {
		return s.Update(ctx, func(tx *Tx) error {
			ran.Add(1)
			return tx.PutSetting(&Setting{Name: "busy", Value: "1"})
		})
	}
	began := time.Now()
	const callers = 20
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := change(t.Context()); !errors.Is(err, ErrBusy) || !errors.Is(err, ErrUnwritable) {
				t.Errorf("a change of a locked database: %v", err)
			}
		})
	}
	all.Wait()
	// One after the other they would need at least this long, on any machine.
	if took := time.Since(began); took >= callers*lockWait {
		t.Errorf("%d changes failed after %s: one after the other", callers, took)
	}
	if ran.Load() > 0 {
		t.Errorf("%d changes began", ran.Load())
	}
	if !errors.Is(s.Err(), ErrBusy) || !errors.Is(s.Probe(t.Context()), ErrBusy) {
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
	release = hold(t, path)
	time.AfterFunc(50*time.Millisecond, release)
	if err := change(t.Context()); err != nil {
		t.Errorf("a change while the database is locked for a moment: %v", err)
	}
}

// TestUnknown: what the disk answers to a commit that is in the file is not
// believed. The rows that a restart would find are found at once, or nothing is
// written until they are.
func TestUnknown(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]func(*testing.T, string) *Store{
		"with a head": func(t *testing.T, path string) *Store { t.Helper(); return adopted(t, path) },
		"without":     func(t *testing.T, path string) *Store { t.Helper(); return open(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			s := s(t, path)
			var settled []bool
			var deaf error // of who is to be told
			s.AfterCommit(func() error { return syscall.EIO })
			put := func(value string) error {
				return s.Update(t.Context(), func(tx *Tx) error {
					tx.OnSettle(func(_ context.Context, committed bool) error {
						if deaf == nil {
							settled = append(settled, committed)
						}
						return deaf
					})
					return tx.PutSetting(&Setting{Name: "unknown", Value: value})
				})
			}
			if err := put("1"); !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrUnwritable) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("a commit that may be in the file: %v", err)
			}
			if _, ok := s.View().Setting("unknown"); ok || s.Err() == nil || len(settled) > 0 {
				t.Errorf("shown %t, %v, %v", ok, s.Err(), settled)
			}
			release := hold(t, path) // now it cannot be made certain
			if err := s.Settle(t.Context()); !errors.Is(err, ErrUnknown) {
				t.Errorf("Settle: %v", err)
			}
			if err := put("2"); !errors.Is(err, ErrUnknown) {
				t.Errorf("the next change: %v", err)
			}
			release()
			s.AfterCommit(nil)
			deaf = errors.New("deaf")
			for range 2 { // before anything else is committed, f has been told
				if err := put("2"); !errors.Is(err, deaf) || !errors.Is(err, ErrUnknown) {
					t.Errorf("a change of which nobody could be told: %v", err)
				}
			}
			deaf = nil
			if err := s.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if now, ok := s.View().Setting("unknown"); !ok || now.Value != "1" || len(settled) != 1 || !settled[0] || s.Err() != nil {
				t.Errorf("settled %v: %+v, %v", settled, now, s.Err())
			}
			if err := put("3"); err != nil || len(settled) != 1 {
				t.Errorf("%v, settled %v", err, settled)
			}
			if err := s.Check(t.Context()); s.Found() != nil && err != nil {
				t.Errorf("Check: %v", err)
			}
		})
	}
}
