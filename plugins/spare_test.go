package plugins_test

import (
	"os"
	"path/filepath"
	"testing"

	"cmkd/plugins"
)

// TestSpare: where no folder can be made for the sockets of a process, as on a full
// disk, they are in the spare one, which only the daemon may enter, until the
// process ends.
func TestSpare(t *testing.T) {
	t.Parallel()
	s := spec(t, nil)
	s.Spare = filepath.Join(shortDir(t), "spare")
	h, err := plugins.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Spare); !os.IsNotExist(err) {
		t.Errorf("a spare folder that nobody needs: %v", err)
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		t.Fatal(err)
	}
	kill(t, h.Status().PID)
	mustEncrypt(t, h, "")
	if fi, err := os.Stat(s.Spare); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the spare folder: %v, %v", fi, err)
	}
	if list, err := os.ReadDir(s.Spare); err != nil || len(list) != 1 {
		t.Errorf("in the spare folder: %v, %v", list, err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(s.Spare); err != nil || len(list) != 0 {
		t.Errorf("left in the spare folder: %v, %v", list, err)
	}
}
