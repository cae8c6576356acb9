package testenv_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// TestModulePath gives a copy of the tree the path of a public home: nothing in it has the old
// one then, and the library builds.
func TestModulePath(t *testing.T) {
	t.Parallel()
	copied := t.TempDir()
	sh := func(dir, script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	sh(rig.Root(), "tar --exclude=./.git --exclude=./bin --exclude=./.cache --exclude=node_modules -cf - . | tar -xf - -C "+copied)
	sh(copied, "packaging/module.sh example.org/team/cmkd")
	if old := sh(copied, `go list -test -f '{{join .Deps "\n"}}' ./... | sort -u | grep '^cmkd/' || true`); old != "" {
		t.Errorf("still imported:\n%s", old)
	}
	sh(copied, "go build ./socket/client/... ./plugins/internal/control && go run ./socket/cmd/cmkctl version")
	if readme := sh(copied, "cat README.md"); !strings.Contains(readme, "go get example.org/team/cmkd/socket/client") || !strings.Contains(readme, "/run/cmkd/cmkd.sock") {
		t.Errorf("README.md after it:\n%s", readme)
	}
	if cmd := exec.CommandContext(t.Context(), filepath.Join(copied, "packaging/module.sh"), "cmkd2"); cmd.Run() == nil {
		t.Error("a path that go get refuses is taken")
	}
}
