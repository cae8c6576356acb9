// Package trustedfile reads files that nobody but root and the daemon's user can have put
// where they are.
package trustedfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Files that the daemon believes, or runs, count only where nobody but root and the
// daemon's user can have put them: each folder on the way, and each symbolic link,
// must belong to one of the two, and be writable by nobody else. A folder with the
// sticky bit, such as /tmp, may be on the way, since in it nobody replaces what is
// another's. What a group may write is nobody else's if nobody but the two is in the
// group.

// maxLinks is how many symbolic links a path may have, as in path_resolution(7).
const maxLinks = 40

// ReadFolder lists a trusted folder in the order of names, without hidden entries.
func ReadFolder(path string) ([]fs.DirEntry, error) {
	f, err := openTrusted(path, unix.S_IFDIR)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), nil
}

// Read reads at most limit bytes of a trusted file.
func Read(path string, limit int64) ([]byte, error) {
	f, err := openTrusted(path, unix.S_IFREG)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, limit))
}

// openTrusted opens a folder (unix.S_IFDIR) or a regular file (unix.S_IFREG) for
// reading. It opens nothing else, since a FIFO would wait for its other end.
func openTrusted(path string, kind uint32) (*os.File, error) {
	fd, name, err := walkTrusted(path, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return reopen(fd, name, kind)
}

// walkTrusted returns a descriptor of O_PATH of what a trusted path leads to, and its name
// without links. It goes from folder to folder and looks at each before it goes on, so
// nobody can exchange one in between. shared: of the last part, a folder may have the
// sticky bit, and who may write a device, a socket or a FIFO does not matter.
func walkTrusted(path string, shared bool) (fd int, name string, err error) {
	at, err := openRoot()
	if err != nil {
		return -1, "", err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(at)
		}
	}()
	name, links := "/", 0
	todo := parts(path)
	for len(todo) > 0 {
		var next string
		next, todo = todo[0], todo[1:]
		fd, st, err := openPart(at, next)
		if err != nil {
			return -1, "", &fs.PathError{Op: "open", Path: filepath.Join(name, next), Err: err}
		}
		if err := checkTrusted(filepath.Join(name, next), fd, st, len(todo) > 0, shared); err != nil {
			_ = unix.Close(fd)
			return -1, "", err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := readLink(fd)
			_ = unix.Close(fd)
			if links++; err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			if err != nil {
				return -1, "", fmt.Errorf("following the symbolic link %s: %w", filepath.Join(name, next), err)
			}
			todo = append(parts(target), todo...)
			if !filepath.IsAbs(target) {
				continue
			}
			if fd, err = openRoot(); err != nil {
				return -1, "", err
			}
			next = "/"
			name = "/"
		}
		_ = unix.Close(at)
		at, name = fd, filepath.Join(name, next)
	}
	return at, name, nil
}

func openRoot() (fd int, err error) {
	fd, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening /: %w", err)
	}
	return fd, nil
}

// parts are the parts of a path. What is "." or empty is left out.
func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// openPart opens a name in a folder without following or waiting for anything.
func openPart(dir int, name string) (fd int, st *unix.Stat_t, err error) {
	fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, err
	}
	st = new(unix.Stat_t)
	if err := unix.Fstat(fd, st); err != nil {
		_ = unix.Close(fd)
		return -1, nil, err
	}
	return fd, st, nil
}

func readLink(fd int) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// reopen opens for reading what fd, of O_PATH, stands for.
func reopen(fd int, name string, kind uint32) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if got := st.Mode & unix.S_IFMT; got != kind {
		if kind == unix.S_IFDIR {
			return nil, fmt.Errorf("%s is not a folder", name)
		}
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// Check refuses a path that somebody but root and the daemon's user can change,
// with an [*untrustedError]. What does not exist has nobody changed: it may be made
// where it is. shared is as in walkTrusted.
func Check(path string, shared bool) error {
	fd, _, err := walkTrusted(path, shared)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// OpenRegular opens a regular file for reading. Others it does not open, or not so
// that it would wait: what is there may be exchanged for a FIFO at any time.
func OpenRegular(path string) (*os.File, fs.FileInfo, error) {
	if err := CheckFile(path, false); err != nil { // opening a device may do something
		return nil, nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
