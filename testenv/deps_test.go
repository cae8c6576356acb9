package testenv_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// TestDepsNeedGo: without a Go that will do, deps.sh installs nothing and says what to
// run; README.md names the same release as go.mod.
func TestDepsNeedGo(t *testing.T) {
	t.Parallel()
	module, err := os.ReadFile(filepath.Join(rig.Root(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(module), "\ngo ")
	release, _, _ := strings.Cut(rest, "\n")
	if readme, err := os.ReadFile(filepath.Join(rig.Root(), "README.md")); err != nil || !strings.Contains(string(readme), "Go "+release+" or newer") {
		t.Errorf("README.md does not name Go %s, %v", release, err)
	}
	for name, c := range map[string]struct {
		version, toolchain string
		enough             bool
	}{
		"none":               {"", "", false},
		"too old":            {"go1.19.8", "", false},
		"old, may not fetch": {"go1.24.4", "local", false},
		"old, may fetch":     {"go1.24.4", "auto", true},
		"pinned, may fetch":  {"go1.24.4", "go1.24.4+auto", true},
		"as named":           {"go" + release, "local", true},
		"newer":              {"go1.100.0", "local", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, tool := range []string{"cat", "dirname", "head", "id", "printf", "sed", "sort", "sh"} {
				path, err := exec.LookPath(tool)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
					t.Fatal(err)
				}
			}
			if c.version != "" {
				script := "#!/bin/sh\ncase $2 in GOVERSION) echo " + c.version + " ;; GOTOOLCHAIN) echo " + c.toolchain + " ;; esac\n"
				if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// Nothing can be installed with this PATH: what comes after Go fails, too.
			cmd := exec.CommandContext(t.Context(), filepath.Join(rig.Root(), "testenv/deps.sh"))
			cmd.Env = []string{"PATH=" + dir}
			out, err := cmd.CombinedOutput()
			said := strings.Contains(string(out), "Go "+release+" or newer is needed") && strings.Contains(string(out), "-backports golang-go")
			goesOn := strings.Contains(string(out), "packages are missing and there is no apt-get")
			if err == nil || said == c.enough || goesOn != c.enough {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
