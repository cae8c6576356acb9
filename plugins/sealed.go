package plugins

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// errChecksum: the executable is not the one of the configuration.
var errChecksum = errors.New("the executable does not have the configured SHA-256 checksum")

// sealed is an executable that has been checked, as a copy in memory that nobody
// can change (memfd_create(2), with all seals). Between a check of a file and its
// execution by name somebody can put another one in its place, or write into it;
// between the check of this copy and its execution nobody can.
type sealed struct {
	file *os.File
	sum  []byte // SHA-256
}

// sealFlags ask for a file that may be executed, which since Linux 6.3 has to be
// said where vm.memfd_noexec is set.
const sealFlags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING | mfdExec

// mfdExec is MFD_EXEC of linux/memfd.h, sealExec F_SEAL_EXEC of linux/fcntl.h: the
// mode stays as it is, too. Both are of Linux 6.3.
const (
	mfdExec  = 0x10
	sealExec = 0x20
)

const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// seal copies the executable, and checks the copy. The error is errChecksum if it
// does not have the checksum.
func seal(path string, sum []byte) (*sealed, error) {
	from, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // or a FIFO would wait for its writer
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }() // only read
	if info, err := from.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	to, err := newMemory(filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("making a copy of %s in memory to check and execute: %w", path, err)
	}
	s := &sealed{file: to, sum: sum}
	if err := s.fill(from); err != nil {
		_ = to.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// newMemory makes a file in memory.
func newMemory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, sealFlags)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, sealFlags&^mfdExec)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w (a checksum needs vm.memfd_noexec to be 0 or 1)", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fill copies, seals, and only then looks at what it has.
func (s *sealed) fill(from io.Reader) error {
	if _, err := io.Copy(s.file, from); err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	if err := s.file.Chmod(0o500); err != nil {
		return err
	}
	_, err := unix.FcntlInt(s.file.Fd(), unix.F_ADD_SEALS, seals|sealExec)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		_, err = unix.FcntlInt(s.file.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return fmt.Errorf("sealing the copy: %w", err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, s.file); err != nil {
		return fmt.Errorf("reading the copy: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), s.sum) {
		return errChecksum
	}
	return nil
}

// sealedFD is the descriptor of the copy in the process that it becomes, the next one
// after streamFD. The process closes it.
const sealedFD = streamFD + 1

// sealedPath is what the process executes.
var sealedPath = fmt.Sprintf("/proc/self/fd/%d", sealedFD)

// closeSealed closes the copy in the process, if it was started from one.
func closeSealed() {
	if _, err := unix.FcntlInt(sealedFD, unix.F_GET_SEALS, 0); err == nil { // EINVAL of all but such files
		_ = unix.Close(sealedFD)
	}
}

func (s *sealed) close() {
	if s != nil {
		_ = s.file.Close()
	}
}
