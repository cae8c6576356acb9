package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// TestBound: the time limit holds for an answer that stops in its middle.
func TestBound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	clitest.Must(t, err)
	ended := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // of a test
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})}
	go server.Serve(l)
	t.Cleanup(func() { _ = server.Close() })
	s := &Service{Socket: path, Timeout: 300 * time.Millisecond}
	answer, err := s.Stream(t.Context(), http.MethodGet, "/", http.NoBody)
	clitest.Must(t, err)
	s.Bound(answer)
	text, err := io.ReadAll(answer.Body)
	if string(text) != "begun" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", text, err)
	}
	clitest.Must(t, answer.Body.Close())
	<-ended
}
