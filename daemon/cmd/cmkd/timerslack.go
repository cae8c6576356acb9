package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// timerSlack is how late, in nanoseconds, a timer of the process may fire
// (PR_SET_TIMERSLACK(2const)). No deadline here is finer than that.
//
// The Go runtime has a thread that looks after the others. While there is work
// it sleeps for 20 µs at a time, which Linux's default slack of 50 µs makes
// 70 µs: up to 14,000 wake-ups a second, in the daemon and again in each plugin
// that has work. docs/performance.md has what that cost.
const timerSlack = 1_000_000

// noSignals is the setting with which the Go runtime sends its threads no signals
// to interrupt them, as it does for garbage collection: the kernel leaves the
// registers of a thread, with what was copied last, on the stack of its signals,
// where they stay until the next one. Loops without a call are too short here to
// hold anything up. The runtime reads the variable before any code of ours runs.
const noSignals = "asyncpreemptoff=1"

// restart starts the program again, with the timer slack and noSignals, unless it
// has them. The runtime's thread takes the slack from the thread that starts it,
// before any code of ours runs, and no unprivileged process may change it for
// another thread. The plugins inherit it. A service manager that sets both
// (TimerSlackNSec=, Environment=) saves the second start.
func restart() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("reading the timer slack: %w", err)
	}
	settings := os.Getenv("GODEBUG")
	if slack >= timerSlack && sendsNoSignals(settings) {
		return nil
	}
	if err := os.Setenv("GODEBUG", strings.TrimPrefix(settings+","+noSignals, ",")); err != nil {
		return fmt.Errorf("setting GODEBUG: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0); err != nil {
		return fmt.Errorf("setting the timer slack: %w", err)
	}
	// A system that takes the value without keeping it must not start us
	// again and again.
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || slack < timerSlack {
		return fmt.Errorf("setting the timer slack: it stayed at %d ns", slack)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the program to start it again: %w", err)
	}
	if err := syscall.Exec(self, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("starting %s again: %w", self, err)
	}
	return nil
}

// sendsNoSignals reports whether noSignals counts: of settings with one name the last
// one does.
func sendsNoSignals(settings string) bool {
	name, _, _ := strings.Cut(noSignals, "=")
	last := ""
	for s := range strings.SplitSeq(settings, ",") {
		if strings.HasPrefix(s, name+"=") {
			last = s
		}
	}
	return last == noSignals
}
