package token

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// locked is a page of memory for a PIN. It is not written to swap, not part of a core
// file, not inherited, and no copy of it is made by the garbage collector, which does
// not know it.
type locked struct{ page []byte }

// newLocked takes a page. Where RLIMIT_MEMLOCK does not even allow that one (it is 8 MiB
// by default, 64 KiB on old systems), it may go to swap.
func newLocked() (*locked, error) {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping a page: %w", err)
	}
	_ = unix.Mlock(page)
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		_ = unix.Madvise(page, advice) // of no use to the call, so an old kernel may lack it
	}
	return &locked{page}, nil
}

// Read reads a file that is shorter than the page.
func (l *locked) read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	n, err := io.ReadFull(f, l.page)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return l.page[:n], nil
	case err == nil:
		return nil, fmt.Errorf("%s has %d bytes or more", file, len(l.page))
	}
	return nil, err
}

// free wipes the page and gives it back.
func (l *locked) free() {
	clear(l.page)
	_ = unix.Munmap(l.page)
	l.page = nil
}
