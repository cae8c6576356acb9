package audit

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// segment is one file of the log.
type segment struct {
	dir    string
	number int
}

// The first segment is audit-000001.jsonl; numbers past 999999 get longer.
func (s segment) path() string {
	return filepath.Join(s.dir, fmt.Sprintf("audit-%06d.jsonl", s.number))
}

// listSegments returns the segments in dir in order. A gap between two is an
// error: only the operator removes segments, and only the oldest.
func listSegments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segments []segment
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "audit-")
		if !ok {
			continue
		}
		if digits, ok = strings.CutSuffix(digits, ".jsonl"); !ok {
			continue
		}
		number, err := strconv.Atoi(digits)
		s := segment{dir: dir, number: number}
		if err != nil || number < 1 || filepath.Base(s.path()) != e.Name() {
			continue
		}
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b segment) int { return cmp.Compare(a.number, b.number) })
	for i := 1; i < len(segments); i++ {
		if segments[i].number != segments[i-1].number+1 {
			return nil, &ChainError{
				File: segments[i].path(), Line: 1,
				Err: fmt.Errorf("%w: segment %d is missing", ErrChain, segments[i-1].number+1),
			}
		}
	}
	return segments, nil
}

// create makes the segment's file. An empty one may be there, left by an
// attempt that failed half-way.
func (s segment) create() (*os.File, error) {
	f, err := os.OpenFile(s.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s: %w", s.path(), os.ErrExist)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// open opens the segment's file to append to it.
func (s segment) open() (*os.File, error) {
	return os.OpenFile(s.path(), os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0)
}

// syncDir makes new names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// datasync is fdatasync(2).
func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// ErrLocked: another process writes to the log.
var ErrLocked = errors.New("the audit log is in use by another process")

func lockPath(dir string) string { return filepath.Join(dir, "audit.lock") }

// lockDir takes the lock that keeps a second writer out.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unlockDir drops the lock. Closing the file alone would not, as long as a
// child process that has not yet come from fork to exec holds it open too.
func unlockDir(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}
