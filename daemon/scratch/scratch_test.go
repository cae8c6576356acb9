package scratch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNew: what a process has left that was killed goes, and what one that lives has does not.
func TestNew(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, remove, err := New("cmkd-probe-")
	if err != nil {
		t.Fatal(err)
	}
	left, young := filepath.Join(os.TempDir(), "cmkd-probe-1"), filepath.Join(os.TempDir(), "cmkd-probe-2")
	for _, path := range []string{left, young} {
		if err := os.MkdirAll(filepath.Join(path, "symmetric"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * leftoverAge)
	for _, path := range []string{dir, left} {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	_, removeOther, err := New("cmkd-probe-")
	if err != nil {
		t.Fatal(err)
	}
	if !absent(left) || absent(dir) || absent(young) {
		t.Errorf("the leftover is gone: %v, want true; one in use: %v, a young one: %v, want false", absent(left), absent(dir), absent(young))
	}
	for _, remove := range []func() error{remove, removeOther} {
		if err := remove(); err != nil {
			t.Error(err)
		}
	}
	if !absent(dir) {
		t.Error("it stays")
	}
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}
