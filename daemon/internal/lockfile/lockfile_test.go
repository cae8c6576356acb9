package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	held, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(path); !errors.Is(err, ErrHeld) {
		t.Errorf("taken twice: %v", err)
	}
	if ok, err := held.InPlace(); !ok || err != nil {
		t.Errorf("in place: %t, %v", ok, err)
	}
	// A child that is about to start has a copy of the descriptor.
	fd, err := unix.FcntlInt(held.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	inherited := os.NewFile(uintptr(fd), "")
	defer inherited.Close()
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := Take(path)
	if err != nil {
		t.Fatalf("after Release, with a copy of the descriptor: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != 0 {
		t.Errorf("%v, %v: want an empty file of mode 0600", info, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"removed", "replaced"} {
		if ok, err := again.InPlace(); ok || err != nil {
			t.Errorf("%s: in place: %t, %v", what, ok, err)
		}
		other, err := Take(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Release(); err != nil {
			t.Error(err)
		}
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "file"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(link); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a symbolic link: %v", err)
	}
	if _, err := Take(filepath.Join(dir, "none", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestRemoved: a lock file that was removed keeps nobody out.
func TestRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := lock(f); !errors.Is(err, ErrHeld) {
		t.Errorf("a lock file that was removed is locked: %v", err)
	}
}
