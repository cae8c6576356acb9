package rig

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
)

// Cmkctl runs the client as root and returns what it prints and whether it
// exits with 0.
func Cmkctl(t *testing.T, r *Rig, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Binaries(t), "cmkctl"), append([]string{"--socket", r.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err == nil
}
