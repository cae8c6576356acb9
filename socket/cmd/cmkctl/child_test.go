package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal returns both ends of a pseudoterminal (pty(7)).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	controlErr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(controlErr, err); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// inTerminal runs cmkctl as the session leader of a terminal, types keys when it
// has printed "ready", and returns all that it printed and how it ended.
func inTerminal(t *testing.T, keys string, stdin *os.File, args ...string) (string, *os.ProcessState) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cmkctl") // the name by which testscript knows it
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	master, slave := terminal(t)
	// Whoever started the tests may have had signals ignored.
	cmd := exec.Command("env", append([]string{"--default-signal", path}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	timeout := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timeout.Stop()
	said := &strings.Builder{}
	in := bufio.NewReader(master)
	for {
		line, err := in.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			break // EIO when the last process has closed it
		}
		if strings.TrimSpace(line) == "ready" {
			if _, err := io.WriteString(master, keys); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // the state says
	return said.String(), cmd.ProcessState
}

// TestKeysReachTheCommand: Ctrl-C and Ctrl-\ at a terminal end the command under
// a bridge, whose status cmkctl exits with, and reach it once.
func TestKeysReachTheCommand(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const loop = `while :; do sleep 0.02; done`
	for _, tt := range []struct {
		name, keys string
		stdin      *os.File
		script     string
		want       int
		says       string
	}{
		{"Ctrl-C", "\x03", nil, "echo ready; " + loop, 128 + int(syscall.SIGINT), ""},
		{"Ctrl-C of another input", "\x03", null, "echo ready; " + loop, 128 + int(syscall.SIGINT), ""},
		{"Ctrl-\\", "\x1c", nil, "ulimit -c 0; echo ready; " + loop, 128 + int(syscall.SIGQUIT), ""},
		{"not two of them", "\x03", null, `n=0; trap 'echo got one; n=$((n+1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.02; done; sleep 0.3; echo "got $n"; exit 4`, 4, "got 1"},
	} {
		args := []string{"bridge", "--", "sh", "-c", tt.script}
		said, state := inTerminal(t, tt.keys, tt.stdin, args...)
		if state.ExitCode() != tt.want || !strings.Contains(said, tt.says) {
			t.Errorf("%s: %s, want exit status %d; it said:\n%s", tt.name, state, tt.want, said)
		}
	}
}

// ignored are the signals that a command says it ignores, as a mask; without
// those that the C library keeps for itself (32 and 33, nptl(7)), which it may
// have from whoever started the tests.
func ignored(t *testing.T, said string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(said, "SigIgn:")
	text, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, said)
	}
	return mask &^ (3 << 31)
}

// TestIgnoredSignalsOfCommand: what nohup(1) ignores stays so, and nothing else
// is ignored in the command.
func TestIgnoredSignalsOfCommand(t *testing.T) {
	t.Parallel()
	const ask = `grep SigIgn /proc/self/status; echo ready`
	if said, _ := inTerminal(t, "", nil, "bridge", "--", "sh", "-c", ask); ignored(t, said) != 0 {
		t.Errorf("the command ignores signals: %s", said)
	}
	const hup = 1 << (syscall.SIGHUP - 1)
	said, _ := inTerminal(t, "", nil, "bridge", "--", "sh", "-c", "trap '' HUP; exec \"$0\" bridge -- sh -c '"+ask+"'", "cmkctl")
	if ignored(t, said) != hup {
		t.Errorf("the command does not ignore SIGHUP: %s", said)
	}
}

// TestSaySlow: who waits for a slow token is told so once, and who does not wait is not.
func TestSaySlow(t *testing.T) {
	t.Parallel()
	var quickly bytes.Buffer
	saySlow(&quickly, time.Hour)()
	if quickly.Len() > 0 {
		t.Errorf("a token that is quick: %q", quickly.String())
	}
	said, log := io.Pipe()
	quick := saySlow(log, time.Millisecond)
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || !strings.Contains(line, "the token or its module is slow") {
		t.Errorf("%q, %v", line, err)
	}
	quick()
}
