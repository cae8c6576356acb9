package units_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// must ends the test with the error of a call: must(call())(t).
func must[T any](out T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// command runs a command and returns what it printed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually waits until there is no error any more.
func eventually(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = try(t.Context()); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	return must(os.ReadFile(path))(t)
}

// write writes a file for the daemon's user.
func write(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	_ = os.Remove(path)
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(path, "/etc/cmkd/") {
		command(t, "chown", "cmkd:cmkd", path)
	}
}

// processes are the PIDs of a unit.
func processes(t *testing.T, unit string) string {
	t.Helper()
	group := strings.TrimSpace(command(t, "systemctl", "show", "-P", "ControlGroup", unit))
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"} {
		if pids, err := os.ReadFile(filepath.Join(root, group, "cgroup.procs")); err == nil {
			return string(pids)
		}
	}
	t.Fatalf("no control group %s", group)
	return ""
}
