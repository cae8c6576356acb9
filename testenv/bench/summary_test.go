package main

import "testing"

// TestSummary checks that the ratio is taken round by round and against the
// better number of threads.
func TestSummary(t *testing.T) {
	t.Parallel()
	one := []rawSample{{rate: 100}, {rate: 200}, {rate: 400}}
	two := []rawSample{{rate: 90}, {rate: 180}, {rate: 1000}}
	if got := best([][]rawSample{two, one}); &got[0] != &one[0] {
		t.Errorf("best is %v, want %v", got, one)
	}
	served := []sample{{calls: 50, took: 1e9}, {calls: 60, took: 1e9}, {calls: 100, took: 1e9}}
	got := newSummary(served, one)
	if got.ratio != 0.3 || got.rate != 60 || got.token != 200 {
		t.Errorf("ratio %v, rate %v, token %v; want 0.3, 60, 200", got.ratio, got.rate, got.token)
	}
}
