package plugins_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins"
	"cmkd/testenv"
)

// BenchmarkBoundary measures the boundary alone: Encrypt of 32 bytes by a
// backend that returns its input.
func BenchmarkBoundary(b *testing.B) {
	benchmarkEncrypt(b, func(b *testing.B) *plugins.Host { return start(b, spec(b, nil)) })
}

// BenchmarkToken measures the same with the real plugin on SoftHSM2.
func BenchmarkToken(b *testing.B) {
	benchmarkEncrypt(b, func(b *testing.B) *plugins.Host {
		h := start(b, symmetric(b, testenv.NewToken(b), "", nil))
		create(b, h)
		return h
	})
}

func benchmarkEncrypt(b *testing.B, start func(*testing.B) *plugins.Host) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("%d-callers", callers), func(b *testing.B) {
			h := start(b)
			b.ReportAllocs()
			b.ResetTimer()
			took := make([][]time.Duration, callers)
			var wg sync.WaitGroup
			for i := range callers {
				n := b.N / callers
				if i < b.N%callers {
					n++
				}
				wg.Go(func() { took[i] = encrypts(b, h, n) })
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64(all[len(all)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// encrypts makes n calls and returns how long each one took.
func encrypts(b *testing.B, h backends.Cipher, n int) []time.Duration {
	in := encryptRequest("", "0123456789abcdef0123456789abcdef")
	in.Key = cmk
	took := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if _, err := h.Encrypt(context.Background(), in); err != nil {
			b.Error(err)
			break
		}
		took = append(took, time.Since(began))
	}
	return took
}

// BenchmarkRestart measures from the loss of a process to the next answer.
func BenchmarkRestart(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		h := start(b, spec(b, nil))
		pid := h.Status().PID
		b.StartTimer()
		kill(b, pid)
		mustEncrypt(b, h, "")
		b.StopTimer()
		if err := h.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
