package main

import (
	"slices"
	"time"
)

// sample is one measurement of the daemon.
type sample struct {
	calls    int
	took     time.Duration
	p50, p99 time.Duration
	// Processor time of all calls together.
	daemon, plugins, client time.Duration
}

func (s sample) rate() float64 { return float64(s.calls) / s.took.Seconds() }

// perCall is processor time in microseconds.
func (s sample) perCall(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1e3 / float64(s.calls)
}

// rawSample is one measurement of the token.
type rawSample struct {
	rate float64 // calls per second
	cpu  float64 // processor time of a call in microseconds
}

// summary is what many samples say.
type summary struct {
	rate                              float64
	p50, p99                          time.Duration
	token                             float64 // calls per second of the bare token
	ratio                             float64
	daemon, plugins, client, tokenCPU float64 // microseconds per call
}

// newSummary takes medians. The ratio is the median of the ratios of each
// round, whose measurements are near in time.
func newSummary(served []sample, bare []rawSample) summary {
	ratios := make([]float64, len(served))
	for i, s := range served {
		ratios[i] = s.rate() / bare[i].rate
	}
	return summary{
		rate:     medianOf(served, sample.rate),
		p50:      medianOf(served, func(s sample) time.Duration { return s.p50 }),
		p99:      medianOf(served, func(s sample) time.Duration { return s.p99 }),
		token:    medianOf(bare, func(s rawSample) float64 { return s.rate }),
		ratio:    median(ratios),
		daemon:   medianOf(served, func(s sample) float64 { return s.perCall(s.daemon) }),
		plugins:  medianOf(served, func(s sample) float64 { return s.perCall(s.plugins) }),
		client:   medianOf(served, func(s sample) float64 { return s.perCall(s.client) }),
		tokenCPU: medianOf(bare, func(s rawSample) float64 { return s.cpu }),
	}
}

// best returns the samples of the number of threads with the best median.
func best(bare [][]rawSample) []rawSample {
	rate := func(samples []rawSample) float64 {
		return medianOf(samples, func(s rawSample) float64 { return s.rate })
	}
	return slices.MaxFunc(bare, func(a, b []rawSample) int {
		switch ra, rb := rate(a), rate(b); {
		case ra < rb:
			return -1
		case ra > rb:
			return 1
		}
		return 0
	})
}

// number is what has a median.
type number interface{ ~int64 | ~float64 }

func medianOf[S any, N number](samples []S, value func(S) N) N {
	values := make([]N, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return median(values)
}

func median[N number](values []N) N {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
