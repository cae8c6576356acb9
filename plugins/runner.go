package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner starts processes from one thread that lives as long as it does: the
// kernel sends Pdeathsig when the thread that created a process ends, and Go
// ends threads as it likes.
type spawner struct {
	starts chan func()
	stop   sync.Once

	mu     sync.Mutex // guards sealed
	sealed *sealed    // what the last process with a checksum was started from
}

func newSpawner() *spawner {
	s := &spawner{starts: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range s.starts {
			f()
		}
	}()
	return s
}

// start starts cmd on the thread.
func (s *spawner) start(cmd *exec.Cmd) error {
	result := make(chan error)
	s.starts <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the thread. No process may be left: it would be killed.
func (s *spawner) close() {
	s.stop.Do(func() {
		close(s.starts)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sealed.close()
		s.sealed = nil
	})
}

// checked is the executable with the checksum. What was checked once is used until
// another checksum is asked for, whatever has become of the file: a plugin that is
// replaced is replaced on its own.
func (s *spawner) checked(path string, sum []byte) (*sealed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed != nil && bytes.Equal(s.sealed.sum, sum) {
		return s.sealed, nil
	}
	made, err := seal(path, sum)
	if err != nil {
		return nil, err
	}
	s.sealed.close()
	s.sealed = made
	return made, nil
}

// processRunner is go-plugin's runner.Runner for a process group of its own
// that dies with the daemon and has nothing of the daemon's but one end of a
// socket pair and what Spec.Env says.
type processRunner struct {
	spawner *spawner
	path    string // of the executable
	cmd     *exec.Cmd
	sha256  []byte
	dir     string // go-plugin's directory for the socket
	stdout  io.ReadCloser
	stderr  io.ReadCloser

	mu     sync.Mutex // guards what follows
	pid    int        // 0: not started
	killed bool
	reaped bool

	exited chan struct{} // closed after reaped is set
}

// newProcessRunner takes over what go-plugin has put into env.
func newProcessRunner(s *spawner, spec *Spec, env []string, dir string, stream *os.File) (*processRunner, error) {
	//nolint:noctx // its end is the supervisor's business: Kill and Pdeathsig
	cmd := exec.Command(spec.Path)
	cmd.Env = append(spec.environ(), env...)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{stream}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r := &processRunner{spawner: s, path: spec.Path, cmd: cmd, sha256: spec.SHA256, dir: dir, exited: make(chan struct{})}
	var err error
	if r.stdout, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("pipe for standard output: %w", err)
	}
	if r.stderr, err = cmd.StderrPipe(); err != nil {
		return nil, fmt.Errorf("pipe for standard error: %w", err)
	}
	return r, nil
}

// Start implements runner.Runner.
func (r *processRunner) Start(context.Context) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("checking the checksum of the executable: %w", err)
	}
	if err := r.spawner.start(r.cmd); err != nil {
		return fmt.Errorf("starting %s: %w", r.path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pid = r.cmd.Process.Pid
	knowProcess(r.pid, r.path)
	if r.killed { // before there was a process
		return r.kill()
	}
	return nil
}

// check makes what has been checked what is executed. go-plugin's own check looks at
// a file, and at a command that a runner does not use.
func (r *processRunner) check() error {
	if r.sha256 == nil {
		return nil
	}
	checked, err := r.spawner.checked(r.path, r.sha256)
	if err != nil {
		return err
	}
	r.cmd.Path = sealedPath // ps(1) shows Args[0], the path of the file
	r.cmd.ExtraFiles = append(r.cmd.ExtraFiles[:sealedFD-streamFD], checked.file)
	return nil
}

// Wait implements runner.AttachedRunner. go-plugin calls it once, after the
// pipes have ended.
func (r *processRunner) Wait(context.Context) error {
	// What a process has left behind in its group goes with it, before the
	// number of the group can become someone else's.
	for {
		err := unix.Waitid(unix.P_PID, r.process(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = r.Kill(context.Background())
	err := r.cmd.Wait()
	r.mu.Lock()
	r.reaped = true
	forgetProcess(r.pid)
	r.mu.Unlock()
	close(r.exited)
	return err
}

// Kill implements runner.AttachedRunner: SIGKILL to the whole group, which
// also ends a stopped process.
func (r *processRunner) Kill(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed = true
	return r.kill()
}

// kill is Kill with mu held.
func (r *processRunner) kill() error {
	if r.pid == 0 || r.reaped { // then the number may be someone else's
		return nil
	}
	if err := syscall.Kill(-r.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing the process group %d: %w", r.pid, err)
	}
	return nil
}

// letGo ends the pipes, for which Wait waits, although a process that left the
// group holds their other ends.
func (r *processRunner) letGo() {
	_ = r.stdout.Close()
	_ = r.stderr.Close()
}

// process returns the process ID, 0 if it was not started.
func (r *processRunner) process() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pid
}

// ID implements runner.AttachedRunner.
func (r *processRunner) ID() string {
	if pid := r.process(); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// Stdout implements runner.Runner.
func (r *processRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr implements runner.Runner.
func (r *processRunner) Stderr() io.ReadCloser { return r.stderr }

// Name implements runner.Runner.
func (r *processRunner) Name() string { return filepath.Base(r.path) }

// Diagnose implements runner.Runner.
func (r *processRunner) Diagnose(context.Context) string {
	return r.path + " is not a plugin of this version of cmkd, or ended before it could say so"
}

// PluginToHost implements runner.AddrTranslator: it refuses every address but that
// of a socket in the process's own directory, or a plugin could have the daemon
// connect to anything.
func (r *processRunner) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(address) != r.dir {
		return "", "", fmt.Errorf("the plugin names %q of network %q and not a socket in its directory", address, network)
	}
	info, err := os.Lstat(address)
	if err != nil {
		return "", "", fmt.Errorf("the socket of the plugin: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return "", "", fmt.Errorf("the plugin names %s, which is not a socket", address)
	}
	return network, address, nil
}

// HostToPlugin implements runner.AddrTranslator.
func (r *processRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
