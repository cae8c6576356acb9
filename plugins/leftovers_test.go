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
