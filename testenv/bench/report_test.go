package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReport: a run writes its table between the two lines of the page, as often as it is made, a
// chart that is an SVG, and rounds in the form of Go's benchmarks.
func TestReport(t *testing.T) {
	t.Parallel()
	var results []result
	for _, name := range []string{"AES-GCM 32 B", "sign RSA-2048"} {
		for _, callers := range []int{1, 8, 16, 64} {
			served := []sample{{calls: 50 * callers, took: time.Second, p50: 900 * time.Microsecond, p99: 2 * time.Millisecond, daemon: time.Second}}
			bare := []rawSample{{rate: 5000, cpu: 60}}
			results = append(results, result{name, callers, newSummary(served, bare), 300 * time.Microsecond, served, bare})
		}
	}
	page := filepath.Join(t.TempDir(), "page.md")
	const rest = "what others wrote\n"
	if err := os.WriteFile(page, []byte(rest+tableBegins+"an old table\n"+tableEnds+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	var first string
	for range 2 {
		if err := document(page, "2 cores", results); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(text)
		}
		for _, want := range []string{"| AES-GCM 32 B | 64 | 3,200 | 900 µs | 3.00 | 2 ms | 5,000 | 0.64 |", "2 cores.", "(page.svg)"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		if strings.Count(string(text), rest) != 2 || strings.Contains(string(text), "old table") || strings.Contains(string(text), "| 16 |") || string(text) != first {
			t.Errorf("wrote\n%s", text)
		}
	}
	chart, err := os.ReadFile(strings.TrimSuffix(page, ".md") + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for d := xml.NewDecoder(bytes.NewReader(chart)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 4 {
		t.Errorf("%d lines in the chart, want 4", lines)
	}
	saved := filepath.Join(t.TempDir(), "new", "rounds.txt")
	if err := save(saved, results, &floors{http: []time.Duration{1000}, sync: []time.Duration{2000}, answers: []float64{7}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BenchmarkCall/op=sign-RSA-2048/callers=8 400 2500000 ns/op 400 calls/s", "BenchmarkFloor/fdatasync 1 2000 ns/op\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := document(saved, "", results); err == nil {
		t.Error("a page without a place for the table is written")
	}
}
