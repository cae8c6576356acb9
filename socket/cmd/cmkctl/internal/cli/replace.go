package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Is reports whether the output is the file that in reads.
func (o *Output) Is(in *Input) bool {
	if o.old == nil || in.info == nil {
		return false
	}
	info, err := o.old.Stat()
	return err == nil && os.SameFile(info, in.info)
}

// Replaces makes the output the replacement of the file that in reads. [Output.Write]
// then puts the new content in its place in one step, and never writes to the file
// itself. What is not a file that can be replaced is an error of [ExitInput]. A file
// that is not the one that in has opened, or is not when the content is complete, is an
// error of [ExitState], and stays as it is.
func (o *Output) Replaces(in *Input) error {
	switch {
	case o.direct != nil || !in.regular:
		return Inputf("%s is not a regular file, so it cannot be replaced: use --out to write another file", o.path)
	case !o.Is(in):
		return o.conflict()
	}
	o.replaced = in.info
	return nil
}

// pendingReplacement is the file that is to replace the target, or the error of
// making it. What the target has that its replacement could not have shows here, and not after
// hours of work.
func (o *Output) pendingReplacement(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, o.irreplaceable(err)
	}
	if err := inherit(f, o.old); err != nil {
		return nil, errors.Join(o.irreplaceable(err), f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// exchange puts the complete content in the place of the target.
func (o *Output) exchange(pending *os.File) error {
	name := pending.Name()
	if err := o.unchanged(o.target); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	if err := inherit(pending, o.old); err != nil { // they may have changed
		return errors.Join(o.irreplaceable(err), os.Remove(name))
	}
	return o.takePlace(name)
}

// takePlace exchanges a file with the target, which is looked at again once it is out
// of the way: what came there meanwhile goes back.
func (o *Output) takePlace(name string) error {
	err := swap(name, o.target)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system cannot
		if err = os.Rename(name, o.target); err == nil {
			return syncFolder(o.target)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(o.conflict(), os.Remove(name))
	case err != nil: // a mount point, or a folder with the sticky bit
		return errors.Join(o.irreplaceable(err), os.Remove(name))
	}
	if err := o.unchanged(name); err != nil {
		if back := swap(name, o.target); back != nil {
			return fmt.Errorf("%w, in %s: %w", err, name, back)
		}
		return errors.Join(err, os.Remove(name))
	}
	return errors.Join(os.Remove(name), syncFolder(o.target))
}

// swap exchanges two files (renameat2(2)).
func swap(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "rename", Old: a, New: b, Err: err}
	}
	return nil
}

// unchanged checks that the file at path is the input, as it was when it was opened.
func (o *Output) unchanged(path string) error {
	is, err := os.Lstat(path)
	if was := o.replaced; err != nil || !os.SameFile(is, was) || is.Size() != was.Size() || !is.ModTime().Equal(was.ModTime()) {
		return o.conflict()
	}
	return nil
}

func (o *Output) conflict() error {
	return Exit(ExitState, fmt.Errorf("%s was changed, replaced or removed meanwhile, and is left so", o.path))
}

func (o *Output) irreplaceable(err error) error {
	return Inputf("%s cannot be replaced in one step: %w; use --out to write another file", o.path, err)
}
