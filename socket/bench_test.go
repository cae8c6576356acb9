package socket

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// BenchmarkCalls64 has 64 callers, each with a kept connection. The callers'
// own work is part of the figure.
func BenchmarkCalls64(b *testing.B) {
	path := filepath.Join(b.TempDir(), "s")
	s, err := Listen(b.Context(), Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, ok) }()

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
	if err := <-served; err != nil {
		b.Fatal(err)
	}
}
