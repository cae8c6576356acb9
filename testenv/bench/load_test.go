package main

import "testing"

// TestComplete checks that an answer is taken as whole only with its last byte,
// and that any but a success stops the benchmark.
func TestComplete(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Amzn-Requestid: a\r\n\r\n{}"
	for n := range len(answer) {
		if whole, err := complete([]byte(answer[:n])); whole || err != nil {
			t.Errorf("first %d bytes: whole %t, error %v", n, whole, err)
		}
	}
	if whole, err := complete([]byte(answer)); !whole || err != nil {
		t.Errorf("all of it: whole %t, error %v", whole, err)
	}
	for _, bad := range []string{
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}",
	} {
		if whole, err := complete([]byte(bad)); err == nil {
			t.Errorf("%q: whole %t and no error", bad, whole)
		}
	}
}

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
