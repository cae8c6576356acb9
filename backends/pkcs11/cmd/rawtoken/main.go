// Command rawtoken measures what a SoftHSM2 token can do when nothing stands
// before it: keys in the token, one session for each thread, and the bare
// PKCS#11 calls of an operation in a loop. The benchmark of the daemon
// (testenv/bench) runs it beside the daemon and compares.
//
// Arguments are the module, the label of a token and the file with its PIN. Each
// line on standard input is an operation, a number of threads and a duration in
// Go's notation; each is answered with a line: calls per second, and the
// processor time of a call in microseconds.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rawtoken:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: rawtoken MODULE LABEL PIN-FILE")
	}
	pin, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	t, err := open(args[0], args[1], strings.TrimSpace(string(pin)))
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var name, duration string
		var threads int
		if _, err := fmt.Sscan(lines.Text(), &name, &threads, &duration); err != nil {
			return fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		d, err := time.ParseDuration(duration)
		if err != nil {
			return err
		}
		rate, cpu, err := t.measure(name, threads, d)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := fmt.Fprintf(out, "%.1f %.3f\n", rate, cpu); err != nil {
			return err
		}
	}
	return lines.Err()
}

// measure runs an operation in a number of threads for about d. It returns
// calls per second and the processor time of a call in microseconds.
func (t *token) measure(name string, threads int, d time.Duration) (rate, cpu float64, err error) {
	calls := make([]func() error, threads)
	for i := range calls {
		c, err := t.caller(name)
		if err != nil {
			return 0, 0, err
		}
		defer c.close()
		calls[i] = c.operation
	}
	var total atomic.Int64
	errs := make([]error, threads)
	began, used := time.Now(), processorTime()
	var running sync.WaitGroup
	for i, call := range calls {
		running.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			n, err := repeat(call, began.Add(d))
			errs[i] = err
			total.Add(n)
		})
	}
	running.Wait()
	used = processorTime() - used
	n := float64(total.Load())
	return n / time.Since(began).Seconds(), float64(used.Nanoseconds()) / 1e3 / n, errors.Join(errs...)
}

// repeat makes calls until the time has come and returns their number.
func repeat(call func() error, until time.Time) (int64, error) {
	for n := int64(0); ; n += 8 {
		for range 8 {
			if err := call(); err != nil {
				return n, err
			}
		}
		if !time.Now().Before(until) {
			return n + 8, nil
		}
	}
}

// processorTime is what the process has used, in user and system mode.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // only for a wrong argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
