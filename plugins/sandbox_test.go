package plugins_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"cmkd/plugins"
	"cmkd/testenv"
	"cmkd/testenv/spy"
)

// TestSandbox: a module that has been taken over gets at nothing but its token,
// and the token works. Without the walls each attempt succeeds, which shows that
// they are what stops it.
func TestSandbox(t *testing.T) {
	t.Parallel()
	module := spy.Build(t)
	for name, c := range map[string]struct {
		sandbox plugins.Sandbox
		allowed []string // attempts that succeed
	}{
		"default": {plugins.Sandbox{}, nil},
		"network": {plugins.Sandbox{Network: true}, []string{"tcp", "unix-socket", "datagram", "pair-of-another-family"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results := attempts(t, module, c.sandbox)
			for _, a := range c.allowed {
				if results[a] != "done" {
					t.Errorf("%s: %s, want it done", a, results[a])
				}
				delete(results, a)
			}
			if results["own-report"] != "done" || len(results) < 14 {
				t.Fatalf("the report is %v", results)
			}
			delete(results, "own-report")
			for attempt, result := range results {
				refused := result == "EACCES" || result == "EPERM"
				if attempt == "new-call" {
					refused = result == "ENOSYS"
				}
				if !refused {
					t.Errorf("%s: %s, want it refused", attempt, result)
				}
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		results := attempts(t, module, plugins.Sandbox{Off: true})
		for _, a := range []string{
			"read-database", "write-database", "read-other-pin", "spawn", "fork", "tcp", "unix-socket", "signal-parent",
			"chmod-database", "chown-database", "nice-parent", "nice-group",
			"processors-of-parent", "scheduler-of-parent", "parameters-of-parent", "disk-of-parent", "datagram", "pair-of-another-family", "limit-parent",
			"owner-parent", "owner-parent-high", "owner-parent-ioctl", "owner-parent-ioctl-high",
		} {
			if results[a] != "done" {
				t.Errorf("%s: %s, want it done without the walls", a, results[a])
			}
		}
	})
}

// attempts runs the plugin with the spy, uses the token, and returns what came
// of the spy's attempts.
func attempts(t *testing.T, module string, sandbox plugins.Sandbox) map[string]string {
	t.Helper()
	dir := t.TempDir()
	tok := testenv.NewToken(t)
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	letters, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "letters"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = letters.Close() })
	report := file("report")
	// The environment names them without a leading slash, or it would open them.
	if sandbox.Writable = []string{report}; sandbox.Off {
		sandbox.Writable = nil
	}
	s := symmetric(t, tok, module, []string{
		"SPY_REPORT=" + report, "SPY_MODULE=" + tok.Module, "SPY_PORT=" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port),
		"SPY_DATABASE=." + file("database"), "SPY_OTHER_PIN=." + file("pin"),
		"SPY_DATAGRAM=." + letters.LocalAddr().String(),
	})
	s.Config.Sandbox = sandbox
	h := start(t, s)
	create(t, h)
	if err := roundTrip(t.Context(), h); err != nil {
		t.Error(err)
	}
	return spy.Report(t, report)
}
