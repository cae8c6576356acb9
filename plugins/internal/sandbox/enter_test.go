package sandbox

import (
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestEnter locks the test binary in, started once more, and looks at what is
// left. The attempts of a module are in the tests of package plugins.
func TestEnter(t *testing.T) {
	t.Parallel()
	if os.Getenv("SANDBOX_TEST") != "" {
		inside(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEnter$", "-test.v")
	cmd.Env = append(os.Environ(), "SANDBOX_TEST=1", "OPEN="+t.TempDir(), "CLOSED="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("inside: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

func inside(t *testing.T) {
	open, closed := os.Getenv("OPEN"), os.Getenv("CLOSED")
	began := time.Now()
	if err := Enter(Policy{Readable: []string{"/nowhere"}, Writable: []string{open}}, slog.Default()); err != nil {
		t.Fatal(err)
	}
	t.Logf("entering took %v", time.Since(began))
	if err := os.WriteFile(open+"/file", []byte("text"), 0o600); err != nil {
		t.Errorf("in a writable folder: %v", err)
	}
	for _, path := range []string{closed + "/file", "/etc/file", "/usr/file"} {
		if err := os.WriteFile(path, nil, 0o600); !os.IsPermission(err) {
			t.Errorf("writing %s: %v", path, err)
		}
	}
	if _, err := os.ReadDir(closed); !os.IsPermission(err) {
		t.Errorf("listing another folder: %v", err)
	}
	if err := exec.CommandContext(t.Context(), "/bin/true").Run(); !os.IsPermission(err) {
		t.Errorf("running a program: %v", err)
	}
	// Threads that are made later are inside too, and the runtime still gets on.
	done := make(chan error, 64)
	for range cap(done) {
		go func() {
			time.Sleep(time.Millisecond)
			_, err := os.ReadFile("/etc/shadow")
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; !os.IsPermission(err) {
			t.Errorf("another thread reads: %v", err)
		}
	}
}

// TestEnterRefuses: a path that is not absolute is a mistake, not a wall.
func TestEnterRefuses(t *testing.T) {
	t.Parallel()
	if err := Enter(Policy{Writable: []string{"tokens"}}, slog.Default()); err == nil {
		t.Error("a relative path is taken")
	}
}
