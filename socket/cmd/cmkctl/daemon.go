package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
	"cmkd/socket/operatorapi"
)

// findDaemon returns the path of cmkd: beside cmkctl itself, else in PATH.
func findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "cmkd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath("cmkd")
	if err != nil {
		return "", fmt.Errorf("cmkd is neither beside cmkctl nor in PATH: %w", err)
	}
	return path, nil
}

// initDaemon has cmkd make its own keys, and returns its notes. What it warns of is shown, and
// if it fails why.
func initDaemon(ctx context.Context, daemon, config string, log io.Writer) (notes []string, err error) {
	var said bytes.Buffer
	if err := runDaemon(ctx, daemon, config, "--init", &said, &said, log); err != nil {
		return nil, err
	}
	for line := range strings.Lines(said.String()) {
		if note, ok := strings.CutPrefix(line, "cmkd: note: "); ok {
			notes = append(notes, strings.TrimSuffix(note, "\n"))
		}
	}
	return notes, nil
}

// runDaemon has cmkd do the one thing that the flag names, with its arguments, and end. What it warns
// of is copied to log. If it fails, the error is what it says, without its log; if it does not say
// why, the log is copied, too.
func runDaemon(ctx context.Context, daemon, config, flag string, out, said *bytes.Buffer, log io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, daemon, append([]string{"--config", config, flag}, args...)...)
	cmd.Stdout, cmd.Stderr = out, said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	quick := saySlow(log, slow)
	err := cmd.Run()
	quick()
	warnings, why := sift(said.String())
	if _, writeErr := io.WriteString(log, warnings); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	switch {
	case err == nil:
		return nil
	case why != "":
		return fmt.Errorf("cmkd %s: %s", flag, why)
	default:
		_, writeErr := log.Write(said.Bytes())
		return errors.Join(fmt.Errorf("cmkd %s: %w", flag, err), writeErr)
	}
}

// sift finds, in what cmkd says on standard error, what it warns of, and why it failed: the line that
// has its name before it, and all that follows.
func sift(said string) (warnings, why string) {
	for line := range strings.Lines(said) {
		rest, named := strings.CutPrefix(line, "cmkd: ")
		switch {
		case named && strings.HasPrefix(rest, "warning: "):
			warnings += line
		case named && strings.HasPrefix(rest, "note: "):
		case named:
			why += rest
		case why != "" && !strings.HasPrefix(line, "{"):
			why += line
		}
	}
	return warnings, strings.TrimSuffix(why, "\n")
}

// slow is how long a token may take before somebody who waits for it is told.
const slow = 15 * time.Second

// saySlow writes to log that the token is slow, once, unless what it returns is called within d.
// Nothing is written after that has returned.
func saySlow(log io.Writer, d time.Duration) (quick func()) {
	ended, said := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		select {
		case <-ended:
		case <-time.After(d):
			fmt.Fprintf(log, "cmkctl: no answer for %s: the token or its module is slow, or hangs; still waiting, Ctrl-C gives up\n", d)
		}
	}()
	return func() { close(ended); <-said }
}

// daemon is a running cmkd of ours.
type daemon struct {
	process *os.Process
	ended   chan struct{} // closed when the process has ended
	err     error         // why, readable then
}

// startDaemon starts cmkd, which will not outlive cmkctl.
func startDaemon(path, config string, log io.Writer) (*daemon, error) {
	d := &daemon{ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child
		// ends, so this one must last as long as the child
		// (https://go.dev/issue/27505).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.CommandContext(context.Background(), path, "--config", config)
		cmd.Stdout, cmd.Stderr = cli.Raw(log), cli.Raw(log)
		// A group of its own: Ctrl-C is for cmkctl, which stops the bridge first.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
		err := cmd.Start()
		d.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		d.err = cmd.Wait()
		close(d.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting cmkd: %w", err)
	}
	return d, nil
}

// pollInterval is how often a starting daemon is asked whether it is ready, and
// pollTimeout how long for an answer.
const (
	pollInterval = 10 * time.Millisecond
	pollTimeout  = 10 * time.Second
)

// ready waits until the daemon says that it is well, or that an operator has to
// look at its database, which takes a daemon that runs. Another daemon may have
// the socket, and ours be about to find that out.
func (d *daemon) ready(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("cmkd was not ready within a minute"))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if pid, err := listener(ctx, socket); err == nil && pid == d.process.Pid {
			if h, err := operate.ReadHealth(ctx, &cli.Service{Socket: socket, Timeout: pollTimeout}); err == nil && (h.State == operatorapi.OK || h.StateMismatch != "") {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-d.ended:
			return fmt.Errorf("cmkd ended before it was ready: %w", d.cause())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// listener returns the pid of the process that listens on a socket (unix(7),
// SO_PEERCRED).
func listener(ctx context.Context, path string) (pid int, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// cause is why the ended daemon ended.
func (d *daemon) cause() error {
	if d.err == nil {
		return errors.New("exit status 0")
	}
	return d.err
}

// Stop ends the daemon, which may drain.
func (d *daemon) stop() error {
	_ = d.process.Signal(syscall.SIGTERM) // it may have ended just now
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	select {
	case <-d.ended:
		return d.err
	case <-timeout.C:
		_ = d.process.Kill()
		<-d.ended
		return errors.New("cmkd did not end within 30 s and was killed")
	}
}
