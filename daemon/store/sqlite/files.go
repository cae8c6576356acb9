package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cmkd/daemon/internal/lockfile"
	"cmkd/daemon/store"
)

// lockFile takes the lock that keeps a second process out. SQLite's own locks
// would let two processes take turns, each with a snapshot that the other
// makes stale.
func lockFile(path string) (*lockfile.Lock, error) {
	lock, err := lockfile.Take(path)
	if errors.Is(err, lockfile.ErrHeld) {
		err = fmt.Errorf("locking %s: %w: does another cmkd run with this state_dir?", path, store.ErrLocked)
	}
	return lock, err
}

// openOwn opens or makes a file of the store's, and follows no link.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: put the file itself there, or let state_dir name its folder", path)
	}
	return f, err
}

// createFile makes sure that the database file exists and is ours alone.
// SQLite gives its other files the owner and mode of this one.
func createFile(path string) error {
	f, err := openOwn(path)
	if err != nil {
		return err
	}
	err = checkFile(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func checkFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: not a regular file", store.ErrPermissions)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%w: mode %04o, want 0600", store.ErrPermissions, st.Mode&0o7777)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: owned by uid %d, not by uid %d", store.ErrPermissions, st.Uid, os.Geteuid())
	}
	return nil
}
