// Package states_test looks at what a daemon in trouble says of itself, and at
// how it starts and ends.
package states_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmkd/testenv/rig"
)

// patience is the most that a test waits for what comes at once on an idle
// machine.
const patience = time.Minute

// eventually polls until done, or fails the test.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// process is a cmkd whose start a test watches.
type process struct {
	*exec.Cmd
	logged string // the file that takes the log
	ended  chan struct{}
}

// start starts cmkd on the configuration of a rig that is stopped.
func start(t *testing.T, r *rig.Rig) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{ended: make(chan struct{}), logged: log.Name()}
	p.Cmd = exec.CommandContext(context.Background(), filepath.Join(rig.Binaries(t), "cmkd"), "-config", r.Path)
	p.Stderr = log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() { // Pdeathsig follows the thread that starts the process
		runtime.LockOSThread()
		started <- p.Start()
		_ = p.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.ended
	})
	return p
}

// log is what was logged so far.
func (p *process) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.logged)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *process) gone() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// ready reports whether clients can connect.
func ready(t *testing.T, r *rig.Rig) bool {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", r.Socket)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// begun reports whether the start has come to the plugins, which take most of
// its time.
func begun(t *testing.T, r *rig.Rig) bool {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.Dir, "s", "plugins"))
	return err == nil && len(entries) > 0
}

// TestHangupInTheStart: SIGHUPs during the start do not end the daemon, and one
// of them is a reload.
func TestHangupInTheStart(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	p := start(t, r)
	eventually(t, "plugins", func() bool { return p.gone() || begun(t, r) })
	eventually(t, "ready", func() bool {
		_ = p.Process.Signal(syscall.SIGHUP)
		return p.gone() || ready(t, r)
	})
	if p.gone() {
		t.Fatalf("a SIGHUP during the start ended the daemon: %v\n%s", p.ProcessState, p.log(t))
	}
	eventually(t, "reloaded", func() bool { return p.gone() || strings.Contains(p.log(t), `"msg":"reloaded"`) })
	_ = p.Process.Signal(syscall.SIGTERM)
	<-p.ended
	if !p.ProcessState.Success() {
		t.Errorf("%v\n%s", p.ProcessState, p.log(t))
	}
}

// TestStoppedInTheStart: the daemon is told to stop at many moments of its
// start. It ends without an error, leaves nothing behind, and starts again.
func TestStoppedInTheStart(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	for i, stop := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGTERM, syscall.SIGINT, syscall.SIGTERM, syscall.SIGTERM} {
		p := start(t, r)
		eventually(t, "plugins", func() bool { return p.gone() || begun(t, r) })
		time.Sleep(time.Duration(i) * 40 * time.Millisecond) // another moment of the start
		_ = p.Process.Signal(stop)
		<-p.ended
		if !p.ProcessState.Success() {
			t.Errorf("%v %d: %v\n%s", stop, i, p.ProcessState, p.log(t))
		}
		if left, err := os.ReadDir(filepath.Join(r.Dir, "s", "plugins")); err != nil || len(left) > 0 {
			t.Errorf("%v %d: %v is left, %v", stop, i, left, err)
		}
	}
	r.Start(t)
	if s := r.Status(t); s.State != "ok" {
		t.Errorf("then: %s", fmt.Sprint(s))
	}
}
