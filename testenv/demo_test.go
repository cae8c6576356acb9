package testenv_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cmkd/testenv/rig"
)

// TestDemo is `make demo` with cmkctl, which starts faster than the AWS CLI.
func TestDemo(t *testing.T) {
	t.Parallel()
	demo := exec.CommandContext(t.Context(), filepath.Join(rig.Root(), "testenv", "demo.sh"))
	demo.Env = append(os.Environ(), "CMKD_BIN="+rig.Binaries(t), "CMKD_DEMO_CLIENT=cmkctl")
	out, err := demo.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
