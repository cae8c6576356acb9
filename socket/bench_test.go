package socket

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// serveBench serves a handler of little work on the socket of that path, until stop is called.
func serveBench(b *testing.B) (path string, stop func()) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "s")
	s, err := Listen(b.Context(), Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, ok) }()
	return path, func() {
		end()
		if err := <-served; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCalls64 has 64 callers, each with a kept connection. The callers'
// own work is part of the figure.
func BenchmarkCalls64(b *testing.B) {
	path, stop := serveBench(b)

	const callers = 64

	next := make(chan struct{}, 1024)
	var wg sync.WaitGroup
	for range callers {
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			answer := make([]byte, 4096)
			for range next {
				if _, err := io.WriteString(conn, smallRequest); err != nil {
					b.Error(err)
				}
				if _, err := conn.Read(answer); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	stop()
}

// BenchmarkIdle reports the memory of a connection that rests after a call, in bytes of Go's heap
// and stacks; the kernel's buffers are not part of it.
func BenchmarkIdle(b *testing.B) {
	for name, request := range map[string]string{"plain": smallRequest, "other": otherRequest} {
		b.Run(name, func(b *testing.B) {
			path, stop := serveBench(b)

			const conns = 1000

			for b.Loop() {
				before := inUse()
				var open []net.Conn
				answer := make([]byte, 4096)
				for range conns {
					conn, err := net.Dial("unix", path)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.WriteString(conn, request); err != nil {
						b.Fatal(err)
					}
					if _, err := conn.Read(answer); err != nil {
						b.Fatal(err)
					}
					open = append(open, conn)
				}
				b.ReportMetric(float64(inUse()-before)/conns, "bytes/connection")
				for _, conn := range open {
					_ = conn.Close()
				}
			}
			stop()
		})
	}
}

// inUse is what the heap and the stacks take, in bytes, without garbage.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // shrinks stacks, and empties pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
