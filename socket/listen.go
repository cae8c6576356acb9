package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// ErrInUse means that another process serves the socket, or is about to.
var ErrInUse = errors.New("socket in use")

// binding is a listening socket and what it leaves in the file system.
type binding struct {
	*net.UnixListener
	path string
	lock *os.File // held for as long as we serve path; nil if activated
	file fileID   // of the socket file, to tell it from a successor's
}

// fileID tells one file from another. The inode of a bound socket file cannot
// be used again while the socket is open.
type fileID struct{ dev, ino uint64 }

// bind makes the socket that cfg describes, or takes the one that systemd
// passed to this process.
func bind(ctx context.Context, cfg Config) (*binding, error) {
	if b, err := activated(); b != nil || err != nil {
		return b, err
	}
	if !filepath.IsAbs(cfg.Path) {
		return nil, fmt.Errorf("socket path %q is not absolute", cfg.Path)
	}
	if len(cfg.Path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q has %d bytes, the system allows %d", cfg.Path, len(cfg.Path), maxSocketPath)
	}
	gid, err := lookupGroup(cfg.Group)
	if err != nil {
		return nil, err
	}
	lock, err := acquireLock(lockPath(cfg.Path))
	if err != nil {
		return nil, err
	}
	b := &binding{path: cfg.Path, lock: lock}
	if err := b.listen(ctx, cfg.Mode, gid); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// activated returns the socket passed by systemd (sd_listen_fds(3)), nil if
// there is none. The variables are removed so that no child takes them for its
// own.
func activated() (*binding, error) {
	files := activation.Files(true)
	if len(files) == 0 {
		return nil, nil //nolint:nilnil // no socket was passed, which is not an error
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) > 1 {
		return nil, fmt.Errorf("systemd passed %d sockets, want one", len(files))
	}
	kind, err := unix.GetsockoptInt(int(files[0].Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("looking at the socket %s from systemd: %w", files[0].Name(), err)
	}
	if kind != unix.SOCK_STREAM {
		return nil, fmt.Errorf("systemd passed a socket of type %s, want a Unix stream socket: ListenStream= in the socket unit", socketTypes[kind])
	}
	ln, err := net.FileListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("taking the socket %s from systemd: %w", files[0].Name(), err)
	}
	unixLn, ok := ln.(*net.UnixListener)
	if !ok {
		addr := ln.Addr()
		_ = ln.Close()
		return nil, fmt.Errorf("systemd passed a listener on %s %s, want a Unix stream socket", addr.Network(), addr)
	}
	return &binding{UnixListener: unixLn, path: unixLn.Addr().String()}, nil
}

// socketTypes are the names of types other than streams, with the settings that
// make them (systemd.socket(5)).
var socketTypes = map[int]string{
	unix.SOCK_DGRAM:     "SOCK_DGRAM (ListenDatagram=)",
	unix.SOCK_SEQPACKET: "SOCK_SEQPACKET (ListenSequentialPacket=)",
}

func lookupGroup(name string) (gid int, err error) {
	if name == "" {
		return -1, nil // chown(2): leave it
	}
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("group of the socket: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

func lockPath(path string) string { return path + ".lock" }

// acquireLock takes the lock under which a socket file is replaced. The file
// stays when we leave: removing it would let two processes hold two locks of
// one name.
func acquireLock(path string) (*os.File, error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the socket: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another process holds %s", ErrInUse, path)
	} else if err != nil {
		err = fmt.Errorf("locking %s: %w", path, err)
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// listen replaces a stale socket and binds b.path.
func (b *binding) listen(ctx context.Context, mode fs.FileMode, gid int) error {
	if err := removeStale(ctx, b.path); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// bind(2) gives the socket file the mode of the socket's own inode
		// less the umask. So nobody but the owner can connect before the
		// group is right.
		var err error
		ctlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(ctlErr, err)
	}}
	ln, err := lc.Listen(ctx, "unix", b.path)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	b.UnixListener = ln.(*net.UnixListener)
	b.SetUnlinkOnClose(false) // Close looks first
	if b.file, err = publish(b.path, mode, gid); err != nil {
		return fmt.Errorf("setting group and mode of socket %s: %w", b.path, err)
	}
	return nil
}

// removeStale removes a socket file that nobody listens on and refuses
// everything else that may be in the way.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for a stale socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket (mode %s)", path, info.Mode())
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("%w: another process listens on %s", ErrInUse, path)
	case errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.ECONNREFUSED):
		// A full backlog, say, is a sign of life.
		return fmt.Errorf("%w: %s is there and cannot be shown to be stale: %w", ErrInUse, path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the stale socket: %w", err)
	}
	return nil
}

// publish gives the socket file at path its group and then its mode. It works
// on the file that it has opened and looked at: path may lie in a folder where
// others can put a link in its place.
func publish(path string, mode fs.FileMode, gid int) (fileID, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fileID{}, err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written through it
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != os.Geteuid() {
		return fileID{}, fmt.Errorf("%w: it was replaced as we bound it", ErrInUse)
	}
	if gid >= 0 {
		if err := unix.Fchownat(fd, "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
			return fileID{}, fmt.Errorf("chown to group %d: %w", gid, err)
		}
	}
	// fchmod(2) refuses an O_PATH descriptor; its name under /proc is the way
	// that open(2) describes.
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return fileID{}, err
	}
	return fileID{dev: st.Dev, ino: st.Ino}, nil
}

// Close removes the socket file if it is still ours, stops listening and gives
// up the lock, in this order: while we hold the lock no successor has bound
// the path.
func (b *binding) Close() error {
	var errs []error
	if b.UnixListener != nil {
		if b.lock != nil && b.owns() {
			errs = append(errs, os.Remove(b.path))
		}
		errs = append(errs, b.UnixListener.Close())
	}
	if b.lock != nil {
		// Closing alone would not unlock it, as long as a child process that has
		// not yet come from fork to exec holds it open too.
		errs = append(errs, unix.Flock(int(b.lock.Fd()), unix.LOCK_UN), b.lock.Close())
	}
	return errors.Join(errs...)
}

func (b *binding) owns() bool {
	var st unix.Stat_t
	if err := unix.Lstat(b.path, &st); err != nil {
		return false
	}
	return fileID{dev: st.Dev, ino: st.Ino} == b.file
}
