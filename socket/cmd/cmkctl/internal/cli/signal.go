package cli

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// interrupted is the signal that has ended a context of [UntilSignal], 0 if none has.
var interrupted atomic.Int32

// signalError is why a context of [UntilSignal] has ended.
type signalError struct{ os.Signal }

func (s signalError) Error() string { return s.String() + " signal received" }

// Is makes it a [context.Canceled].
func (signalError) Is(target error) bool { return target == context.Canceled }

// UntilSignal returns a context that ends when somebody wants cmkctl to. More
// signals change nothing: what has been made must be undone, and timeout(1)
// sends two. Writing where nobody reads becomes an error instead of the end.
func UntilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case s := <-signals:
			if number, ok := s.(syscall.Signal); ok {
				interrupted.Store(int32(number))
			}
			cancel(signalError{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// Interrupted returns the signal that has interrupted a command.
func Interrupted() (s syscall.Signal, ok bool) {
	s = syscall.Signal(interrupted.Load())
	return s, s != 0
}

// EndBy ends the process by a signal, so that a shell ends its loop, too, or with the
// status that a shell has for it: SIGQUIT would leave a core dump, and the first process
// of a container does not end by signals.
func EndBy(s syscall.Signal) {
	if s != syscall.SIGQUIT && os.Getpid() != 1 {
		signal.Reset(s)
		runtime.LockOSThread()
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), s) // this thread has it before the call returns
	}
	os.Exit(128 + int(s))
}
