package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cmkd/daemon/store"
	"cmkd/daemon/store/sqlite"
)

// TestPatience: the lock of the store goes only with the last descriptor, which a child
// of a daemon that was killed may have for a moment longer.
func TestPatience(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cmkd.db")
	held, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	tries := 0
	open := func() (*store.Store, error) {
		if tries++; tries == 3 {
			_ = held.Close()
		}
		return sqlite.Open(t.Context(), path, sqlite.Options{})
	}
	s, err := patiently(t.Context(), lockPatience, lockPoll, store.ErrLocked, open)
	if err != nil || tries != 3 {
		t.Fatalf("%v after %d tries, want it open after 3", err, tries)
	}
	defer func() { _ = s.Close() }()
	tries = 10
	if _, err := patiently(t.Context(), lockPatience, lockPoll, store.ErrLocked, open); err == nil {
		t.Error("two have the store open")
	}
}
