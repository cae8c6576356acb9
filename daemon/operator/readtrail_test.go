package operator

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/audit/trail"
)

// TestSlowReader: one who takes nothing is cut off, and holds no more than a buffer until
// then.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out := &sender{to: w, control: http.NewResponseController(w), limit: 100 * time.Millisecond}
		out.buf = bufio.NewWriterSize(out, sendSize)
		event := &trail.Event{Line: []byte(strings.Repeat("x", 1<<10))}
		for {
			if err := out.line(event); err != nil {
				ended <- err
				return
			}
		}
	}))
	defer server.Close()
	var dialer net.Dialer
	c, err := dialer.DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestReaders(t *testing.T) {
	t.Parallel()
	var r readers
	in := 0
	for uid := range uint32(10) {
		for range maxReadersPerUser + 1 {
			if r.enter(uid) {
				in++
			}
		}
	}
	if in != maxReaders || r.all != in {
		t.Errorf("%d read, want %d", in, maxReaders)
	}
	for uid := range uint32(10) {
		for range r.byUID[uid] {
			r.leave(uid)
		}
	}
	if r.all != 0 || len(r.byUID) != 0 || !r.enter(1) {
		t.Errorf("%d still read: %v", r.all, r.byUID)
	}
}
