package plugins

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRemoveLeftovers removes the folders of processes and nothing else, also where
// the path looks like a pattern.
func TestRemoveLeftovers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a[b")
	if err := RemoveLeftovers(dir); err != nil {
		t.Errorf("of no folder: %v", err)
	}
	for _, name := range []string{"plugin-dir123/socket", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveLeftovers(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRemoveLeftoversOfOthers: what another user has put in the place of the folder,
// in /dev/shm, is neither followed nor emptied.
func TestRemoveLeftoversOfOthers(t *testing.T) {
	t.Parallel()
	target, dir := filepath.Join(t.TempDir(), "target"), t.TempDir()
	link, open := filepath.Join(dir, "link"), filepath.Join(dir, "open")
	for _, folder := range []string{target, open} {
		if err := os.MkdirAll(filepath.Join(folder, "plugin-dir1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	for at, folder := range map[string]string{link: target, open: open} {
		if err := RemoveLeftovers(at); err == nil {
			t.Errorf("%s: no error", at)
		}
		if _, err := os.Stat(filepath.Join(folder, "plugin-dir1")); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
}
