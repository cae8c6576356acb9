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

	"cmkd/daemon/internal/lockfile"
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
// error: only the oldest are ever pruned.
func listSegments(dir string) ([]segment, error) {
	segments, err := namedSegments(dir)
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(segments); i++ {
		if err := segments[i].after(segments[i-1]); err != nil {
			return nil, err
		}
	}
	return segments, nil
}

// after checks that no segment is missing between other and s.
func (s segment) after(other segment) error {
	if s.number == other.number+1 {
		return nil
	}
	return &ChainError{File: s.path(), Line: 1, Err: fmt.Errorf("%w: segment %d is missing", ErrChain, other.number+1)}
}

// namedSegments returns what has the name of a segment, in order.
func namedSegments(dir string) ([]segment, error) {
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
	return segments, nil
}

// create makes the file of a segment that is empty at first: of a trail that
// begins. It may be there and be empty, left by an attempt that failed half-way.
func (s segment) create() (*os.File, error) {
	f, err := s.openFile(os.O_RDWR | os.O_CREATE | os.O_APPEND)
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

// begin makes the segment's file with its first lines. It gets its name when
// they are on the disk: no crash leaves a segment that is empty or begins with
// half a line, so one that does has been cut off.
func (s segment) begin(lines []byte) (_ *os.File, err error) {
	if _, err := os.Lstat(s.path()); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", s.path(), cmp.Or(err, os.ErrExist))
	}
	fresh := s.path() + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	name := fresh
	defer func() {
		if err != nil { // without it the lines are not recorded, and are written again
			err = errors.Join(err, f.Close(), os.Remove(name))
		}
	}()
	if _, err = f.Write(lines); err != nil {
		return nil, err
	}
	if err = f.Sync(); err != nil {
		return nil, err
	}
	if err = os.Rename(fresh, s.path()); err != nil {
		return nil, err
	}
	name = s.path()
	if err = syncDir(s.dir); err != nil {
		return nil, err
	}
	return f, nil
}

// open opens the segment's file to append to it.
func (s segment) open() (*os.File, error) { return s.openFile(os.O_RDWR | os.O_APPEND) }

// openRead opens the segment's file to read it.
func (s segment) openRead() (*os.File, error) { return s.openFile(os.O_RDONLY) }

// openFile refuses with [ErrFile] what is not a regular file. It does not wait
// for the other end of a FIFO.
func (s segment) openFile(flags int) (*os.File, error) {
	path := s.path()
	wrong := &ChainError{File: path, Err: ErrFile}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENODEV):
		return nil, wrong
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = wrong
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
	return os.NewSyscallError("fdatasync", uninterrupted(func() error { return unix.Fdatasync(int(f.Fd())) }))
}

// uninterrupted makes a system call again for as long as signals interrupt it.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// ErrLocked: another process writes to the log.
var ErrLocked = errors.New("the audit log is in use by another process")

func lockPath(dir string) string { return filepath.Join(dir, "audit.lock") }

// lockDir takes the lock that keeps a second writer out.
func lockDir(dir string) (*lockfile.Lock, error) {
	lock, err := lockfile.Take(lockPath(dir))
	if errors.Is(err, lockfile.ErrHeld) {
		err = ErrLocked
	}
	return lock, err
}
