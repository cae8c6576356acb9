// Command bench measures cmkd: the real daemon and plugins on a fresh SoftHSM2
// token, with the audit trail synced to the disk, called over the socket with
// the requests of the AWS SDK. In turns with that it measures the bare token by
// direct PKCS#11 calls (backends/pkcs11/cmd/rawtoken), so that their ratio
// holds on a machine that has other work, too. docs/performance.md explains
// the table.
//
// It needs the executables of `make build` and rawtoken; `make bench` makes them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	bin     string
	raw     string
	dir     string
	only    *regexp.Regexp
	rounds  int
	length  time.Duration
	callers []int
	threads []int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	o := options{callers: []int{1, 8, 64}, threads: []int{1, 2, 4}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.bin, "bin", "bin", "`folder` of the daemon's executables")
	flags.StringVar(&o.raw, "rawtoken", ".cache/bench/rawtoken", "`path` of rawtoken")
	flags.StringVar(&o.dir, "dir", "", "`folder` for the token and the state, on the kind of disk that matters (default a temporary one)")
	only := flags.String("run", "", "operations to measure, a regular `expression`")
	flags.IntVar(&o.rounds, "rounds", 5, "`number` of measurements, of which the median counts")
	flags.DurationVar(&o.length, "time", 500*time.Millisecond, "`duration` of one measurement")
	one := flags.Int("callers", 0, "measure this `number` of callers only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if *one > 0 {
		o.callers = []int{*one}
	}
	dir, err := os.MkdirTemp(o.dir, "cmkd-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	server, err := startServer(ctx, o.bin, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	raw, err := startRaw(ctx, o.raw, dir, server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.stop()) }()

	fmt.Printf("%d cores, %d rounds of %v, medians\n\n", runtime.NumCPU(), o.rounds, o.length)
	fmt.Printf("%-20s %7s %9s %9s %9s %14s %6s   %s\n", "operation", "callers", "calls/s", "p50", "p99", "token calls/s", "ratio",
		"processor µs per call: daemon, plugins, client; token")
	for i := range operations {
		op := &operations[i]
		if !o.only.MatchString(op.name) {
			continue
		}
		if err := measure(ctx, &o, op, server, raw); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
	}
	return nil
}

// measure measures one operation and prints its lines.
func measure(ctx context.Context, o *options, op *operation, server *server, raw *raw) error {
	request, err := op.prepare(ctx, server)
	if err != nil {
		return err
	}
	for _, callers := range o.callers { // opens what is opened once
		if _, err := server.load(ctx, request, callers, o.length/5); err != nil {
			return err
		}
	}
	served := make([][]sample, len(o.callers))
	bare := make([][]rawSample, len(o.threads))
	for range o.rounds {
		for i, threads := range o.threads {
			s, err := raw.measure(op.raw, threads, o.length/2)
			if err != nil {
				return err
			}
			bare[i] = append(bare[i], s)
		}
		for i, callers := range o.callers {
			s, err := server.load(ctx, request, callers, o.length)
			if err != nil {
				return err
			}
			served[i] = append(served[i], s)
		}
	}
	best := best(bare)
	for i, callers := range o.callers {
		m := newSummary(served[i], best)
		fmt.Printf("%-20s %7d %9.0f %9s %9s %14.0f %6.2f   %.1f, %.1f, %.1f; %.1f\n", op.name, callers, m.rate,
			text(m.p50), text(m.p99), m.token, m.ratio, m.daemon, m.plugins, m.client, m.tokenCPU)
	}
	return nil
}

// text is a duration in three digits.
func text(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return d.Round(100 * time.Nanosecond).String()
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 100*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
