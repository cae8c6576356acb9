package cli

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// inherit gives a new file the owner, the mode and the extended attributes of an
// old one. Set-user-ID bits and file capabilities go, as write(2) would take
// them. An old file that has further names cannot be replaced.
func inherit(file, old *os.File) error {
	var was unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &was); err != nil {
		return err
	}
	if was.Nlink != 1 {
		return errors.New("the file has further names")
	}
	var is unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &is); err != nil {
		return err
	}
	if was.Uid != is.Uid || was.Gid != is.Gid {
		if err := file.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
	}
	if err := inheritAttributes(file, old); err != nil {
		return err
	}
	return file.Chmod(fs.FileMode(was.Mode & 0o777))
}

func inheritAttributes(file, old *os.File) error {
	was, err := attributes(old)
	if err != nil {
		return err
	}
	is, err := attributes(file)
	if err != nil {
		return err
	}
	for name := range is { // from an ACL of the folder
		if _, keep := was[name]; !keep {
			if err := xattr.FRemove(file, name); err != nil {
				return err
			}
		}
	}
	for name, value := range was {
		if err := xattr.FSet(file, name, value); err != nil {
			return err
		}
	}
	return nil
}

// attributes reads the extended attributes of a file (xattr(7)), without those
// that the system makes of itself: labels of security modules and capabilities.
func attributes(f *os.File) (map[string][]byte, error) {
	names, err := xattr.FList(f)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil //nolint:nilnil // the file system has none
	}
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for _, name := range names {
		if strings.HasPrefix(name, "security.") {
			continue
		}
		if found[name], err = xattr.FGet(f, name); err != nil {
			return nil, err
		}
	}
	return found, nil
}
