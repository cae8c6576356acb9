// Package scratch makes temporary folders that a later process removes if this one is killed.
package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// leftoverAge is how old a folder is at least that is taken for the leftover of a process that was
// killed: it has locked it by then.
const leftoverAge = time.Minute

// New makes a temporary folder, closed to others, and removes those that processes of this user
// have left that were killed: they have lost their locks (flock(2)).
// prefix is of their names, and for folders of this kind alone.
func New(prefix string) (dir string, remove func() error, err error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*")) // the pattern is good
	for _, path := range old {
		sweep(path)
	}
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", nil, err
	}
	f, err := lockFolder(dir)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), os.RemoveAll(dir))
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), f.Close()) }, nil
}

// sweep removes the folder if it is a leftover.
func sweep(path string) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() || time.Since(info.ModTime()) < leftoverAge {
		return
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
		return
	}
	if f, err := lockFolder(path); err == nil {
		_ = os.RemoveAll(path) // the next one tries again
		_ = f.Close()
	}
}

func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
