package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Output is a file to write that may be there already. Nothing of a regular
// file changes before all of the new content is on the disk: it is then replaced
// in one step, with its owner, mode and extended attributes (ACLs among them)
// kept. Everything else that a path may name, such as a device, a FIFO or a
// descriptor of this process, is written to directly and never replaced.
type Output struct {
	path string // as it was given, for messages
	// direct is what is written to directly; nil for a regular file.
	direct func() (*os.File, error)
	// target is the regular file, with symbolic links followed.
	target string
	// old is the file at target; nil if there is none.
	old *os.File
	// replaced is what the file at target was when it was opened as the input: see
	// [Output.Replaces]. nil for any other output.
	replaced fs.FileInfo
}

// descriptorPath is a name of a process's descriptor (proc(5)); /dev/stdout and
// /dev/fd lead to such names.
var descriptorPath = regexp.MustCompile(`^/proc/([0-9]+)(?:/task/[0-9]+)?/fd/([0-9]+)$`)

// openOutput looks at what path names. The caller calls close.
func openOutput(path string) (*Output, error) {
	o := &Output{path: path}
	target, err := followLinks(path)
	if err != nil {
		return nil, err
	}
	if m := descriptorPath.FindStringSubmatch(target); m != nil {
		o.direct = func() (*os.File, error) { return openDescriptor(m[1], m[2], target) }
		return o, nil
	}
	info, err := os.Stat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		o.target = target
		return o, nil
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory", path)
	case info.Mode().Type() == fs.ModeSocket:
		return nil, fmt.Errorf("%s is a socket, which cannot be opened as a file", path)
	case !info.Mode().IsRegular():
		o.direct = func() (*os.File, error) { return os.OpenFile(target, os.O_WRONLY|unix.O_NOCTTY, 0) }
		return o, nil
	}
	// A file that may not be written is not replaced either.
	if o.old, err = os.OpenFile(target, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	o.target = target
	return o, nil
}

// followLinks follows the symbolic links at the end of path, as open(2) does,
// but stops before the links of proc(5), which are not paths.
func followLinks(path string) (string, error) {
	const most = 40 // as path_resolution(7)
	for range most {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return "", err
		}
		if strings.HasSuffix(path, "/") {
			return "", fmt.Errorf("%s is a directory", path)
		}
		path = filepath.Join(dir, filepath.Base(path))
		if descriptorPath.MatchString(path) {
			return path, nil
		}
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil //nolint:nilerr // it is not a link, or not there: that shows later
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(dir, link)
		}
		path = link
	}
	return "", &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// openDescriptor opens a descriptor that proc(5) names. One of this process is
// duplicated: opening it again would begin at the start of a file that the shell
// has opened to append to.
func openDescriptor(pid, number, path string) (*os.File, error) {
	if pid != strconv.Itoa(os.Getpid()) {
		return os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOCTTY, 0)
	}
	fd, err := strconv.Atoi(number)
	if err == nil {
		fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Direct reports whether the output is written to directly, so that nothing can be undone.
func (o *Output) Direct() bool { return o.direct != nil }

func (o *Output) Close() {
	if o.old != nil {
		_ = o.old.Close() // what was written is synced
	}
}

// Write has content written to the output. If it fails, or ctx ends before all is
// there, a regular file is as it was.
func (o *Output) Write(ctx context.Context, content func(io.Writer) error) error {
	if o.direct != nil {
		return o.writeDirectly(ctx, content)
	}
	pending, err := o.pending()
	if err != nil {
		return err
	}
	defer pending.Close() //nolint:errcheck // what was written is synced
	if err = content(pending); err == nil {
		err = pending.Sync()
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	switch {
	case err == nil && o.replaced != nil:
		return o.exchange(pending)
	case err == nil:
		return o.commit(pending)
	}
	return errors.Join(err, os.Remove(pending.Name()))
}

// writeDirectly does not wait for a device or a reader that does not take what
// is written once ctx has ended: there is nothing to undo.
func (o *Output) writeDirectly(ctx context.Context, content func(io.Writer) error) error {
	done := make(chan error, 1)
	go func() {
		f, err := o.direct() // a FIFO waits for its reader
		if err != nil {
			done <- err
			return
		}
		done <- errors.Join(content(f), f.Close())
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pending makes the file that takes the content meanwhile, with mode 0600: beside
// the target, or where the user may not make files there, in the folder for
// temporary ones.
func (o *Output) pending() (*os.File, error) {
	name := filepath.Base(o.target)
	f, err := os.CreateTemp(filepath.Dir(o.target), "."+name[:min(len(name), 200)]+".*")
	if o.replaced != nil {
		return o.pendingReplacement(f, err)
	}
	if o.old != nil && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
		return os.CreateTemp("", "cmkctl-*")
	}
	return f, err
}

// commit makes the complete content that of the target.
func (o *Output) commit(pending *os.File) error {
	if err := o.lookAgain(); err != nil {
		return errors.Join(err, os.Remove(pending.Name()))
	}
	if o.old == nil || filepath.Dir(pending.Name()) == filepath.Dir(o.target) && inherit(pending, o.old) == nil {
		err := os.Rename(pending.Name(), o.target)
		switch {
		case err == nil:
			return syncFolder(o.target)
		case o.old == nil:
			return errors.Join(err, os.Remove(pending.Name()))
		}
	}
	// It has other names (hard links), an owner to whom this user cannot give
	// files, or is a mount point.
	if err := o.overwrite(pending); err != nil {
		return fmt.Errorf("writing %s: %w; the complete output is in %s", o.path, err, pending.Name())
	}
	return os.Remove(pending.Name())
}

// syncFolder makes the name of a file last. A file system that cannot sync folders has
// nothing to say about it.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrPermission) { // it may be written, and not read
		return nil
	}
	if err != nil {
		return err
	}
	defer folder.Close() //nolint:errcheck // nothing was written
	if err := folder.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// lookAgain takes note of a target that came, went or was replaced meanwhile.
func (o *Output) lookAgain() error {
	there, err := os.Stat(o.target)
	if err == nil && o.old != nil {
		if was, err := o.old.Stat(); err == nil && os.SameFile(was, there) {
			return nil
		}
	}
	o.Close()
	o.old = nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	o.old, err = os.OpenFile(o.target, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil && !there.Mode().IsRegular() {
		return fmt.Errorf("%s has become something else meanwhile", o.path)
	}
	return err
}

// overwrite copies the complete content over that of the old file, once there is
// room for it. It is not undone by a signal.
func (o *Output) overwrite(content *os.File) error {
	info, err := content.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		err := unix.Fallocate(int(o.old.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(o.old, content); err != nil {
		return err
	}
	return errors.Join(o.old.Truncate(info.Size()), o.old.Sync())
}

// WriteFile writes a file whose content is at hand, as [output] does.
func WriteFile(path string, content func(io.Writer) error) error {
	o, err := openOutput(path)
	if err != nil {
		return err
	}
	defer o.Close()
	return o.Write(context.Background(), content)
}

// RemoveFile removes a regular file that [writeFile] has written, through
// symbolic links, and nothing else: no device, no FIFO.
func RemoveFile(path string) error {
	target, err := followLinks(path)
	if err != nil {
		return err
	}
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || descriptorPath.MatchString(target)) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(target)
}
