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
	"slices"
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
	save    string
	doc     string
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
	o := options{callers: []int{1, 2, 4, 8, 16, 32, 64}, threads: []int{1, 2, 4}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.bin, "bin", "bin", "`folder` of the daemon's executables")
	flags.StringVar(&o.raw, "rawtoken", ".cache/bench/rawtoken", "`path` of rawtoken")
	flags.StringVar(&o.dir, "dir", "", "`folder` for the token and the state, on the kind of disk that matters (default a temporary one)")
	only := flags.String("run", "", "operations to measure, a regular `expression`")
	flags.IntVar(&o.rounds, "rounds", 5, "`number` of measurements, of which the median counts")
	flags.DurationVar(&o.length, "time", 500*time.Millisecond, "`duration` of one measurement")
	flags.StringVar(&o.save, "save", "", "`file` for the rounds, in the format of Go's benchmarks")
	flags.StringVar(&o.doc, "doc", "", "`file` of the documentation that gets the table, and the chart beside it")
	floor := flags.String("floor", "", "answer on this `socket` as a bare server does; the program does that by itself")
	one := flags.Int("callers", 0, "measure this `number` of callers only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *floor != "" {
		return serveFloor(*floor)
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

	floors, err := startFloors(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floors.stop()) }()

	conditions := fmt.Sprintf("%d cores, %d rounds of %v, medians", runtime.NumCPU(), o.rounds, o.length)
	fmt.Print(conditions, "\n\n")
	printHead(os.Stdout)
	var results []result
	for i := range operations {
		op := &operations[i]
		if !o.only.MatchString(op.name) {
			continue
		}
		measured, err := measure(ctx, &o, op, server, raw, floors)
		if err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
		results = append(results, measured...)
	}
	if len(results) == 0 {
		return fmt.Errorf("no operation matches %q", *only)
	}
	fmt.Printf("\nfloors: %s, and the token's call; \"p50 is\" a multiple of their sum\n", floors)
	if o.save != "" {
		if err := save(o.save, results, floors); err != nil {
			return err
		}
	}
	if o.doc == "" {
		return nil
	}
	return document(o.doc, fmt.Sprintf("%s; %s", conditions, floors), results)
}

// measure measures one operation and prints its lines.
func measure(ctx context.Context, o *options, op *operation, server *server, raw *raw, floors *floors) ([]result, error) {
	request, err := op.prepare(ctx, server)
	if err != nil {
		return nil, err
	}
	for _, callers := range o.callers { // opens what is opened once
		if _, err := server.load(ctx, request, callers, o.length/5); err != nil {
			return nil, err
		}
	}
	served := make([][]sample, len(o.callers))
	bare := make([][]rawSample, len(o.threads))
	for range o.rounds {
		if err := floors.measure(ctx, slices.Max(o.callers), o.length/2); err != nil {
			return nil, err
		}
		for i, threads := range o.threads {
			s, err := raw.measure(op.raw, threads, o.length/2)
			if err != nil {
				return nil, err
			}
			bare[i] = append(bare[i], s)
		}
		for i, callers := range o.callers {
			s, err := server.load(ctx, request, callers, o.length)
			if err != nil {
				return nil, err
			}
			served[i] = append(served[i], s)
		}
	}
	best := best(bare)
	floor := floors.sum(o.rounds, medianOf(bare[0], func(s rawSample) float64 { return s.rate }))
	results := make([]result, len(o.callers))
	for i, callers := range o.callers {
		results[i] = result{op.name, callers, newSummary(served[i], best), floor, served[i], best}
		results[i].print(os.Stdout)
	}
	return results, nil
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
