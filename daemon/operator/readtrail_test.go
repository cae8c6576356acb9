package operator

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkd/daemon/audit/trail"
	"cmkd/socket/operatorapi"
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

// answerEvents notes what is done with an answer.
type answerEvents struct {
	header http.Header
	events []string
}

func (a *answerEvents) Header() http.Header              { return a.header }
func (a *answerEvents) WriteHeader(int)                  {}
func (a *answerEvents) Flush()                           { a.events = append(a.events, "flush") }
func (a *answerEvents) SetWriteDeadline(time.Time) error { return nil }
func (a *answerEvents) Write(p []byte) (int, error) {
	a.events = append(a.events, "write")
	return len(p), nil
}

// TestSearchAnswersFirst: an answer begins before anything is found, and what is found
// does not wait for more.
func TestSearchAnswersFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	line := `{"eventVersion":"1.11","eventTime":"2026-03-01T00:00:00.000000Z","eventName":"Encrypt","sequence":1}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "audit-000001.jsonl"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &answerEvents{header: http.Header{}}
	r := &reading{ctx: t.Context(), service: &Service{Config: Config{AuditDir: dir}}, in: &operatorapi.TrailQuery{}, end: func() {}}
	r.send(a)
	if want := []string{"flush", "write", "flush"}; !slices.Equal(a.events, want) {
		t.Errorf("%v, want %v; %v", a.events, want, a.header)
	}
}
