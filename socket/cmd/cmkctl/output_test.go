package main

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
)

const yesterday, today = "yesterday's backup", "today's"

func writes(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// holds checks the content of a file.
func holds(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

// names checks what is in a folder.
func names(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(yesterday), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestOutputKeepsOwnerModeAndAttributes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mustWrite(t, path)
	must(t, os.Chmod(path, 0o640), xattr.Set(path, "user.origin", []byte("db1")))
	if os.Getuid() == 0 {
		must(t, os.Chown(path, 12345, 54321))
		// An ACL (acl(5)): user 777 may read.
		acl := []byte{
			2, 0, 0, 0,
			1, 0, 6, 0, 255, 255, 255, 255,
			2, 0, 4, 0, 9, 3, 0, 0,
			4, 0, 4, 0, 255, 255, 255, 255,
			16, 0, 4, 0, 255, 255, 255, 255,
			32, 0, 0, 0, 255, 255, 255, 255,
		}
		must(t, xattr.Set(path, "system.posix_acl_access", acl))
	}
	var was, is unix.Stat_t
	must(t, unix.Stat(path, &was))
	before, err := xattr.List(path)
	must(t, err)
	must(t, writeFile(path, writes(today)))
	holds(t, path, today)
	must(t, unix.Stat(path, &is))
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
	names(t, dir, "f")
}

func TestOutputOfANewFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	must(t, writeFile(path, writes(today)))
	holds(t, path, today)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := writeFile(dir, writes(today)); err == nil {
		t.Error("a folder was written to")
	}
	if err := writeFile(filepath.Join(dir, "none", "f"), writes(today)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	names(t, dir, "f")
}

func TestOutputFollowsSymbolicLinks(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	mustWrite(t, filepath.Join(other, "f"))
	must(t, os.Symlink(filepath.Join(other, "f"), filepath.Join(dir, "absolute")),
		os.Symlink("absolute", filepath.Join(dir, "relative")),
		os.Symlink("new", filepath.Join(dir, "dangling")),
		os.Symlink("loop", filepath.Join(dir, "loop")))
	must(t, writeFile(filepath.Join(dir, "relative"), writes(today)))
	holds(t, filepath.Join(other, "f"), today)
	names(t, other, "f")
	must(t, writeFile(filepath.Join(dir, "dangling"), writes(today)))
	holds(t, filepath.Join(dir, "new"), today)
	if err := writeFile(filepath.Join(dir, "loop"), writes(today)); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	for _, name := range []string{"absolute", "relative", "dangling", "loop"} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("%s is no longer a link", name)
		}
	}
	names(t, dir, "absolute", "dangling", "loop", "new", "relative")
	must(t, removeFile(filepath.Join(dir, "relative")))
	names(t, other)
}

// TestOutputKeepsHardLinks writes a file in place that has two names, and shorter
// than it was.
func TestOutputKeepsHardLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	mustWrite(t, a)
	must(t, os.Link(a, b))
	failure := errors.New("failure")
	err := writeFile(a, func(w io.Writer) error { return errors.Join(writes(today)(w), failure) })
	if !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	holds(t, b, yesterday)
	must(t, writeFile(a, writes(today)))
	holds(t, a, today)
	holds(t, b, today)
	names(t, dir, "a", "b")
}

func TestOutputWritesIntoWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	read := make(chan string, 1)
	go func() {
		text, _ := os.ReadFile(fifo)
		read <- string(text)
	}()
	must(t, writeFile(fifo, writes(today)))
	if got := <-read; got != today {
		t.Errorf("the FIFO passed %q", got)
	}
	must(t, removeFile(fifo))
	names(t, dir, "fifo")

	// A FIFO that nobody reads is waited for no longer than ctx.
	out, err := openOutput(fifo)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := out.write(ctx, writes(today)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}

	ln, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(ln)
	must(t, unix.Bind(ln, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")}))
	if err := writeFile(filepath.Join(dir, "s"), writes(today)); err == nil {
		t.Error("a socket was written to")
	}
	want := []string{"fifo", "s"}
	if os.Getuid() == 0 { // a device like /dev/null
		null := filepath.Join(dir, "null")
		must(t, unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, writeFile(null, writes(today)), removeFile(null))
		if info, err := os.Lstat(null); err != nil || info.Mode().Type() != os.ModeDevice|os.ModeCharDevice {
			t.Errorf("the device has become %v", info.Mode())
		}
		want = []string{"fifo", "null", "s"}
	}
	names(t, dir, want...)
}

// TestOutputAppendsToItsOwnDescriptors is -o /dev/stdout >>file.
func TestOutputAppendsToItsOwnDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mustWrite(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	link := filepath.Join(dir, "stdout")
	for _, name := range []string{"/dev/fd/%d", "/proc/self/fd/%d", "/proc/thread-self/fd/%d"} {
		name = fmt.Sprintf(name, f.Fd())
		_ = os.Remove(link)
		must(t, os.Symlink(name, link), writeFile(link, writes(today)), writeFile(name, writes(today)), removeFile(link))
	}
	holds(t, path, yesterday+string(bytes.Repeat([]byte(today), 6)))
	names(t, dir, "f", "stdout")
}

// TestOutputNeedsTheRightToWrite has a user replace a file that is not to be
// written, in a folder of their own.
func TestOutputNeedsTheRightToWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mustWrite(t, path)
	must(t, os.Chmod(path, 0o400))
	if os.Getuid() == 0 {
		const nobody = 65534
		must(t, os.Chown(dir, nobody, nobody), os.Chown(path, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755))
		done := make(chan error)
		go func() { done <- asUser(nobody, func() error { return writeFile(path, writes(today)) }) }()
		if err := <-done; !errors.Is(err, os.ErrPermission) {
			t.Errorf("error %v", err)
		}
	} else if err := writeFile(path, writes(today)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
	holds(t, path, yesterday)
	names(t, dir, "f")
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
	mustWrite(t, path)
	must(t, os.Chmod(path, 0o666), os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755), os.Chown(path, 12345, 0))
	done := make(chan error)
	go func() { done <- asUser(65534, func() error { return writeFile(path, writes(today)) }) }()
	must(t, <-done)
	holds(t, path, today)
	var is syscall.Stat_t
	must(t, syscall.Stat(path, &is))
	if is.Uid != 12345 || is.Mode&0o777 != 0o666 {
		t.Errorf("owner %d, mode %o", is.Uid, is.Mode)
	}
	names(t, dir, "f")
}
