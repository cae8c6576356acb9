// Package lockfile keeps a second process out of what a file stands for, with a
// lock of flock(2) on an empty file. The kernel drops the lock with the process.
// The file may only be removed by who holds the lock.
package lockfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld: another process, or another part of this one, holds the lock.
var ErrHeld = errors.New("the lock is held")

// Lock is a lock that is held.
type Lock struct {
	file *os.File
	path string
}

// Take takes the lock at path, and makes the file with mode 0600 if it is not there.
// It does not wait and follows no symbolic link.
func Take(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%s is a symbolic link: put the file itself there: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return &Lock{f, path}, nil
}

// lock locks an open file, unless it has been removed since: that locks nobody out.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Nlink == 0 {
		return ErrHeld
	}
	return nil
}

// InPlace reports whether the lock keeps others out: somebody may have removed its
// file, or put another in its place.
func (l *Lock) InPlace() (bool, error) {
	held, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(l.path)
	return err == nil && os.SameFile(held, there), nil
}

// Release drops the lock. Closing the file alone would not, as long as a child
// process that has not yet come from fork to exec holds it open too.
func (l *Lock) Release() error {
	return errors.Join(unix.Flock(int(l.file.Fd()), unix.LOCK_UN), l.file.Close())
}
