package etcd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"cmkd/daemon/store"
	"cmkd/daemon/store/storetest"
	server "cmkd/testenv/etcd"
)

// BenchmarkKeys says what a database of so many keys costs, each with a version: the start of another node,
// its memory, the size in etcd, and a commit that another node follows. What is said for each key
// stays the same if nothing grows with the square.
func BenchmarkKeys(b *testing.B) {
	for _, keys := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			s := server.Start(b)
			d := newDatabase(b, s, true)
			first := storetest.Open(b, d)
			storetest.Adopt(b, first)
			const each = 1000
			for from := each; from <= keys; from += each { // behind those of Adopt
				storetest.Update(b, first, func(tx *store.Tx) (err error) {
					for i := from; i < from+each; i++ {
						err = errors.Join(err, tx.PutKey(storetest.Key(i)), tx.PutVersion(storetest.Version(i)))
					}
					return err
				})
			}
			before := heap()
			began := time.Now()
			second := storetest.Open(b, d)
			start := time.Since(began)
			head, err := second.Found().Head()
			if err != nil {
				b.Fatal(err)
			}
			if err := errors.Join(second.Resume(b.Context(), storetest.Sealer{}, head), first.Join(b.Context()), second.Join(b.Context())); err != nil {
				b.Fatal(err)
			}
			memory := heap() - before
			c := s.Client(b)
			defer c.Close()
			status, err := c.Status(b.Context(), s.Endpoint)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			followed := make(chan error, 1)
			go func() {
				for {
					if err := second.Join(ctx); err != nil {
						followed <- err
						return
					}
					select {
					case <-ctx.Done():
						followed <- nil
						return
					case <-second.Arrived():
					}
				}
			}()
			var took []time.Duration
			for i := range 200 {
				began := time.Now()
				if err := errors.Join(put(first, fmt.Sprint(i)), first.Await(b.Context())); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			cancel()
			if err := <-followed; err != nil && !errors.Is(err, context.Canceled) {
				b.Fatal(err)
			}
			slices.Sort(took)
			n := float64(keys)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(start.Seconds(), "start-s")
			b.ReportMetric(float64(start.Microseconds())/n, "start-µs/key")
			b.ReportMetric(float64(memory)/n, "memory-B/key")
			b.ReportMetric(float64(status.DbSizeInUse)/n, "etcd-B/key")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "commit-p50-ms")
			runtime.KeepAlive(second)
		})
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below 2^63
}
