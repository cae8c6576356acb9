package bridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// runChild runs a command in the foreground, forwards signals to it, and
// returns its exit status as an [exitError].
func runChild(cmd *cobra.Command, args, env []string) error {
	// Signals before the command has started wait in the channel.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	child := exec.CommandContext(context.WithoutCancel(cmd.Context()), args[0], args[1:]...)
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cli.Raw(cmd.OutOrStdout()), cli.Raw(cmd.ErrOrStderr())
	if err := child.Start(); err != nil {
		// As a shell does: 127 for a command that is not there.
		status := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			status = 127
		}
		return &cli.ExitError{Status: status, Err: err}
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				_ = child.Process.Signal(s) // it may have ended just now
			}
		case err := <-ended:
			return childStatus(args[0], err)
		}
	}
}

// forwarded are the signals for the child. None of them is set to be ignored,
// which the child would inherit (execve(2)); what was ignored when cmkctl
// started, as by nohup(1), stays so for both.
func forwarded() []os.Signal {
	all := []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
	return slices.DeleteFunc(all, signal.Ignored)
}

// fromTerminal reports whether a signal comes from the keys of the terminal,
// which sends it to the whole foreground process group: the child has it too,
// and shall not get it twice.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // there is none
	}
	defer tty.Close() //nolint:errcheck // nothing was written
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// childStatus turns the end of a command into ours, as a shell does.
func childStatus(name string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("running %s: %w", name, err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &cli.ExitError{Status: 128 + int(ws.Signal())}
	}
	return &cli.ExitError{Status: exit.ExitCode()}
}
