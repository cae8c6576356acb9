package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
	"cmkd/testenv/trails"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cmkctl": main})
}

// TestScripts runs cmkctl against a service that answers from a table.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"serve":   serve,
			"silent":  silent,
			"trail":   writeTrail,
			"waitfor": waitFor,
		},
	})
}

// TestDaemonScripts runs cmkctl with the real daemon, its plugins and a
// SoftHSM2 token.
func TestDaemonScripts(t *testing.T) {
	t.Parallel()
	bin := buildDaemon(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/daemon",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			return setupScript(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "waitfor": waitFor},
	})
}

// buildDaemon builds cmkd and its plugins as make does.
func buildDaemon(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{
		"cmkd":            "cmkd/daemon/cmd/cmkd",
		"cmkd-symmetric":  "cmkd/plugins/symmetric",
		"cmkd-asymmetric": "cmkd/plugins/asymmetric",
		"cmkd-hmac":       "cmkd/plugins/hmac",
	} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("building %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

// setupScript gives a script a short temporary folder, for sockets have short
// names, and nothing of the AWS configuration of whoever runs the test.
func setupScript(env *testscript.Env) error {
	tmp, err := os.MkdirTemp("", "cmkctl")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(tmp) })
	env.Setenv("TMPDIR", tmp)
	// Some installations of the AWS CLI find themselves by HOME.
	env.Setenv("HOME", os.Getenv("HOME"))
	env.Setenv("AWS_CONFIG_FILE", filepath.Join(tmp, "none"))
	env.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(tmp, "none"))
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("AWS_PAGER", "")
	return nil
}

// serve [STATUS]: starts the service and sets CMKD_SOCKET. STATUS is a file
// with what it answers to GET /status.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: serve [status.json]")
	}
	status := ""
	if len(args) == 1 {
		status = ts.ReadFile(args[0])
	}
	path := filepath.Join(ts.Getenv("TMPDIR"), "cmkd.sock")
	stop, err := clitest.StartService(path, status)
	ts.Check(err)
	ts.Defer(func() { ts.Check(stop()) })
	ts.Setenv("CMKD_SOCKET", path)
}

// trail FOLDER RECORDS: writes an audit trail, and the public key of its checkpoints to
// audit-key-test.pem beside it.
func writeTrail(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: trail folder records")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(trails.Write(trails.Config{
		Dir: dir, Records: n, SegmentBytes: 256 << 10, KeyFile: filepath.Join(filepath.Dir(dir), "audit-key-test.pem"),
	}))
}

// silent: listens where nobody answers and sets CMKD_SOCKET.
func silent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: silent")
	}
	path := filepath.Join(ts.Getenv("TMPDIR"), "silent")
	ln, err := net.Listen("unix", path)
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv("CMKD_SOCKET", path)
}

// exits STATUS COMMAND...: runs the command, which ends with the exit status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits status command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	status := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Check(err)
		}
		status = exit.ExitCode()
	}
	if status != want {
		ts.Fatalf("%s: exit status %d, want %d", strings.Join(args[1:], " "), status, want)
	}
}

// [!] waitfor FILE or COMMAND...: waits until the file is there or the command
// succeeds, or with ! the opposite.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	done := func() bool {
		if len(args) > 1 {
			return ts.Exec(args[0], args[1:]...) == nil
		}
		_, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil
	}
	for deadline := time.Now().Add(time.Minute); done() == neg; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain")
		}
	}
}
