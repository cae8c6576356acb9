package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// result is one line: an operation with a number of callers.
type result struct {
	operation string
	callers   int
	summary
	floor  time.Duration // what one call takes at least
	rounds []sample
	bare   []rawSample
}

// multiple is the p50 as a multiple of what a call takes at least.
func (r *result) multiple() float64 { return float64(r.p50) / float64(r.floor) }

const head = "%-20s %7s %9s %9s %9s %8s %14s %6s   %s\n"

func printHead(w io.Writer) {
	fmt.Fprintf(w, head, "operation", "callers", "calls/s", "p50", "p99", "p50 is", "token calls/s", "ratio",
		"processor µs per call: daemon, plugins, client; token")
}

func (r *result) print(w io.Writer) {
	fmt.Fprintf(w, "%-20s %7d %9.0f %9s %9s %7.2fx %14.0f %6.2f   %.1f, %.1f, %.1f; %.1f\n", r.operation, r.callers, r.rate,
		text(r.p50), text(r.p99), r.multiple(), r.token, r.ratio, r.daemon, r.plugins, r.client, r.tokenCPU)
}

// save writes the rounds in the format of Go's benchmarks, which benchstat compares.
// https://golang.org/design/14313-benchmark-format
func save(path string, results []result, f *floors) error {
	var b bytes.Buffer
	for i := range results {
		r := &results[i]
		for k, s := range r.rounds {
			fmt.Fprintf(&b, "BenchmarkCall/op=%s/callers=%d %d %.0f ns/op %.0f calls/s %d p50-ns %d p99-ns %.4f of-raw %.0f daemon-ns %.0f plugins-ns\n",
				strings.ReplaceAll(r.operation, " ", "-"), r.callers, s.calls, s.took.Seconds()*1e9/float64(s.calls), s.rate(),
				s.p50.Nanoseconds(), s.p99.Nanoseconds(), s.rate()/r.bare[k].rate, 1e3*s.perCall(s.daemon), 1e3*s.perCall(s.plugins))
		}
	}
	for k := range f.http {
		fmt.Fprintf(&b, "BenchmarkFloor/http 1 %d ns/op %.0f calls/s\n", f.http[k].Nanoseconds(), f.answers[k])
		fmt.Fprintf(&b, "BenchmarkFloor/fdatasync 1 %d ns/op\n", f.sync[k].Nanoseconds())
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b.Bytes(), 0o644))
}

// The table of the documentation lies between these.
const (
	tableBegins = "<!-- The table of make bench begins. -->\n"
	tableEnds   = "<!-- The table of make bench ends. -->\n"
)

// document writes the table into the documentation, and the chart beside it.
func document(path, conditions string, results []result) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !ok || !ends {
		return fmt.Errorf("%s has no place for the table: it needs the lines %q and %q", path, tableBegins, tableEnds)
	}
	chart := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(tableBegins)
	table(&b, conditions, filepath.Base(chart), results)
	b.WriteString(tableEnds)
	b.Write(after)
	return cmp.Or(os.WriteFile(chart, draw(results), 0o644), os.WriteFile(path, b.Bytes(), 0o644))
}

// documented are the numbers of callers that the table has; the chart has all.
var documented = map[int]bool{1: true, 8: true, 64: true}

func table(w io.Writer, conditions, chart string, results []result) {
	fmt.Fprintf(w, "\n%s.\n\n", conditions)
	fmt.Fprintf(w, "![Calls per second and p50 over the number of callers, as multiples of the floors](%s)\n\n", chart)
	fmt.Fprintln(w, "| operation | callers | calls/s | p50 | of the floors | p99 | token calls/s | ratio | daemon µs | plugins µs | client µs | token µs |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|")
	for i := range results {
		r := &results[i]
		if !documented[r.callers] {
			continue
		}
		fmt.Fprintf(w, "| %s | %d | %s | %s | %.2f | %s | %s | %.2f | %.0f | %.0f | %.0f | %.0f |\n", r.operation, r.callers, thousands(r.rate),
			spaced(r.p50), r.multiple(), spaced(r.p99), thousands(r.token), r.ratio, r.daemon, r.plugins, r.client, r.tokenCPU)
	}
	fmt.Fprintln(w)
}

// thousands is a number as people write it.
func thousands(n float64) string {
	digits := fmt.Sprintf("%.0f", n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// spaced is text with a space before the unit.
func spaced(d time.Duration) string {
	s := text(d)
	i := strings.LastIndexAny(s, "0123456789") + 1
	return s[:i] + " " + s[i:]
}
