package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// InNamespace is a script, by its path, as root in a mount and a PID namespace of its
// own: its mounts and processes go with it. Without root that takes sudo.
func InNamespace(t testing.TB, environ []string, script string, args ...string) *exec.Cmd {
	t.Helper()
	words := append([]string{
		"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", script,
	}, args...)
	if os.Geteuid() != 0 {
		words = append(append([]string{"sudo", "-n", "env"}, environ...), words...)
	}
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	cmd.Env = environ
	return cmd
}
