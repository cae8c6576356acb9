package trustedfile

import (
	"fmt"
	"os"
	"path/filepath"
)

// CheckFile refuses what is not a regular file or, if it is to be executable, not that.
func CheckFile(path string, executable bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case executable && info.Mode().Perm()&0o100 == 0:
		return fmt.Errorf("%s has the mode %#o: run chmod a+x %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// IsCredential reports whether the path is of a file that systemd passes.
func IsCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == dir
}

// SecretPath is the path of a file that holds a secret: name itself if that is
// absolute, else that of a systemd credential.
func SecretPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" || !IsFileName(name) {
		return "", fmt.Errorf("%q is neither an absolute path nor a systemd credential of this service", name)
	}
	return filepath.Join(dir, name), nil
}

// IsFileName reports whether name is one in a folder, as that of a credential is.
func IsFileName(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.Base(name) == name
}
