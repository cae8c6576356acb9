package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

// Cgroup makes a control group in the hierarchy in which systemd keeps services,
// as systemd would for a unit of that name, and removes it after the test, when
// nothing may run in it any more. ok is false where the test may not make one,
// as in most containers.
func Cgroup(t testing.TB, unit string) (dir string, ok bool) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		dir := filepath.Join(root, unit)
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Errorf("removing the control group: %v", err)
			}
		})
		return dir, true
	}
	return "", false
}
