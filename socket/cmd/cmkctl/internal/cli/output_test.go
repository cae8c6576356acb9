package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

func writes(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestOutputKeepsOwnerModeAndAttributes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	clitest.MustWrite(t, path)
	clitest.Must(t, os.Chmod(path, 0o640), xattr.Set(path, "user.origin", []byte("db1")))
	if os.Getuid() == 0 {
		clitest.Must(t, os.Chown(path, 12345, 54321))
		// An ACL (acl(5)): user 777 may read.
		acl := []byte{
			2, 0, 0, 0,
			1, 0, 6, 0, 255, 255, 255, 255,
			2, 0, 4, 0, 9, 3, 0, 0,
			4, 0, 4, 0, 255, 255, 255, 255,
			16, 0, 4, 0, 255, 255, 255, 255,
			32, 0, 0, 0, 255, 255, 255, 255,
		}
		clitest.Must(t, xattr.Set(path, "system.posix_acl_access", acl))
	}
	var was, is unix.Stat_t
	clitest.Must(t, unix.Stat(path, &was))
	before, err := xattr.List(path)
	clitest.Must(t, err)
	clitest.Must(t, WriteFile(path, writes(clitest.Today)))
	clitest.Holds(t, path, clitest.Today)
	clitest.Must(t, unix.Stat(path, &is))
	if is.Uid != was.Uid || is.Gid != was.Gid || is.Mode != was.Mode {
		t.Errorf("owner %d:%d mode %o, want %d:%d %o", is.Uid, is.Gid, is.Mode, was.Uid, was.Gid, was.Mode)
	}
	if is.Ino == was.Ino {
		t.Error("the file was written over in place")
	}
	after, err := xattr.List(path)
	slices.Sort(before) // the order says nothing
	slices.Sort(after)
	if err != nil || !slices.Equal(after, before) {
		t.Errorf("attributes %v, %v; want %v", after, err, before)
	}
	if v, err := xattr.Get(path, "user.origin"); err != nil || string(v) != "db1" {
		t.Errorf("attribute %q, %v", v, err)
	}
	clitest.Names(t, dir, "f")
}

func TestOutputOfANewFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	clitest.Must(t, WriteFile(path, writes(clitest.Today)))
	clitest.Holds(t, path, clitest.Today)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := WriteFile(dir, writes(clitest.Today)); err == nil {
		t.Error("a folder was written to")
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), writes(clitest.Today)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	clitest.Names(t, dir, "f")
}

func TestOutputFollowsSymbolicLinks(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	clitest.MustWrite(t, filepath.Join(other, "f"))
	clitest.Must(t, os.Symlink(filepath.Join(other, "f"), filepath.Join(dir, "absolute")),
		os.Symlink("absolute", filepath.Join(dir, "relative")),
		os.Symlink("new", filepath.Join(dir, "dangling")),
		os.Symlink("loop", filepath.Join(dir, "loop")))
	clitest.Must(t, WriteFile(filepath.Join(dir, "relative"), writes(clitest.Today)))
	clitest.Holds(t, filepath.Join(other, "f"), clitest.Today)
	clitest.Names(t, other, "f")
	clitest.Must(t, WriteFile(filepath.Join(dir, "dangling"), writes(clitest.Today)))
	clitest.Holds(t, filepath.Join(dir, "new"), clitest.Today)
	if err := WriteFile(filepath.Join(dir, "loop"), writes(clitest.Today)); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	for _, name := range []string{"absolute", "relative", "dangling", "loop"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s is no longer a link", name)
		}
	}
	clitest.Names(t, dir, "absolute", "dangling", "loop", "new", "relative")
	clitest.Must(t, RemoveFile(filepath.Join(dir, "relative")))
	clitest.Names(t, other)
}

// TestOutputKeepsHardLinks writes a file in place that has two names, and shorter
// than it was.
func TestOutputKeepsHardLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	clitest.MustWrite(t, a)
	clitest.Must(t, os.Link(a, b))
	failure := errors.New("failure")
	err := WriteFile(a, func(w io.Writer) error { return errors.Join(writes(clitest.Today)(w), failure) })
	if !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	clitest.Holds(t, b, clitest.Yesterday)
	clitest.Must(t, WriteFile(a, writes(clitest.Today)))
	clitest.Holds(t, a, clitest.Today)
	clitest.Holds(t, b, clitest.Today)
	clitest.Names(t, dir, "a", "b")
}

func TestOutputWritesIntoWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	clitest.Must(t, unix.Mkfifo(fifo, 0o600))
	read := make(chan string, 1)
	go func() {
		text, _ := os.ReadFile(fifo)
		read <- string(text)
	}()
	clitest.Must(t, WriteFile(fifo, writes(clitest.Today)))
	if got := <-read; got != clitest.Today {
		t.Errorf("the FIFO passed %q", got)
	}
	clitest.Must(t, RemoveFile(fifo))
	clitest.Names(t, dir, "fifo")

	// A FIFO that nobody reads is waited for no longer than ctx.
	out, err := openOutput(fifo)
	clitest.Must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := out.Write(ctx, writes(clitest.Today)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}

	ln, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	clitest.Must(t, err)
	defer unix.Close(ln)
	clitest.Must(t, unix.Bind(ln, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")}))
	if err := WriteFile(filepath.Join(dir, "s"), writes(clitest.Today)); err == nil {
		t.Error("a socket was written to")
	}
	want := []string{"fifo", "s"}
	if os.Getuid() == 0 { // a device like /dev/null
		null := filepath.Join(dir, "null")
		clitest.Must(t, unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		clitest.Must(t, WriteFile(null, writes(clitest.Today)), RemoveFile(null))
		if info, err := os.Lstat(null); err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
			t.Errorf("the device has become %v", info.Mode())
		}
		want = []string{"fifo", "null", "s"}
	}
	clitest.Names(t, dir, want...)
}

// TestOutputAppendsToItsOwnDescriptors is -o /dev/stdout >>file.
func TestOutputAppendsToItsOwnDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	clitest.MustWrite(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	clitest.Must(t, err)
	defer f.Close()
	link := filepath.Join(dir, "stdout")
	for _, name := range []string{"/dev/fd/%d", "/proc/self/fd/%d", "/proc/thread-self/fd/%d"} {
		name = fmt.Sprintf(name, f.Fd())
		_ = os.Remove(link)
		clitest.Must(t, os.Symlink(name, link), WriteFile(link, writes(clitest.Today)), WriteFile(name, writes(clitest.Today)), RemoveFile(link))
	}
	clitest.Holds(t, path, clitest.Yesterday+string(bytes.Repeat([]byte(clitest.Today), 6)))
	clitest.Names(t, dir, "f", "stdout")
}

// TestOutputNeedsTheRightToWrite has a user replace a file that is not to be
// written, in a folder of their own.
func TestOutputNeedsTheRightToWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	clitest.MustWrite(t, path)
	clitest.Must(t, os.Chmod(path, 0o400))
	if os.Getuid() == 0 {
		const nobody = 65534
		clitest.Must(t, os.Chown(dir, nobody, nobody), os.Chown(path, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755))
		done := make(chan error)
		go func() { done <- asUser(nobody, func() error { return WriteFile(path, writes(clitest.Today)) }) }()
		if err := <-done; !errors.Is(err, os.ErrPermission) {
			t.Errorf("error %v", err)
		}
	} else if err := WriteFile(path, writes(clitest.Today)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
	clitest.Holds(t, path, clitest.Yesterday)
	clitest.Names(t, dir, "f")
}

// asUser runs f with the file system rights of a user, on a thread that ends.
func asUser(uid int, f func() error) error {
	runtime.LockOSThread() // for good: the runtime ends the thread with the goroutine
	if err := unix.Setfsuid(uid); err != nil {
		return err
	}
	return f()
}

// TestOutputOfAnotherOwner has a user write a file that belongs to somebody else,
// whose owner they cannot give.
func TestOutputOfAnotherOwner(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		return // only root can make such a file
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	clitest.MustWrite(t, path)
	clitest.Must(t, os.Chmod(path, 0o666), os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755), os.Chown(path, 12345, 0))
	done := make(chan error)
	go func() { done <- asUser(65534, func() error { return WriteFile(path, writes(clitest.Today)) }) }()
	clitest.Must(t, <-done)
	clitest.Holds(t, path, clitest.Today)
	var is syscall.Stat_t
	clitest.Must(t, syscall.Stat(path, &is))
	if is.Uid != 12345 || is.Mode&0o777 != 0o666 {
		t.Errorf("owner %d, mode %o", is.Uid, is.Mode)
	}
	clitest.Names(t, dir, "f")
}
