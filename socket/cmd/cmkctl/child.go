package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
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
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := child.Start(); err != nil {
		// As a shell does: 127 for a command that is not there.
		status := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			status = 127
		}
		return &exitError{status: status, err: err}
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended just now
		case err := <-ended:
			return childStatus(args[0], err)
		}
	}
}

// forwarded are the signals for the child. A terminal sends its own to both
// processes, and the child shall not get them twice.
func forwarded() []os.Signal {
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
		return signals
	}
	return append(signals, syscall.SIGINT, syscall.SIGQUIT)
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
		return &exitError{status: 128 + int(ws.Signal())}
	}
	return &exitError{status: exit.ExitCode()}
}
