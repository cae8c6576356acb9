package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cmkd/daemon/store"
)

// TestLockRemoved: a lock file that was removed keeps nobody out.
func TestLockRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := lock(f); err != nil {
		t.Fatal(err)
	}
	if err := unlockFile(f); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := lock(f); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a lock file that was removed is locked: %v", err)
	}
}
