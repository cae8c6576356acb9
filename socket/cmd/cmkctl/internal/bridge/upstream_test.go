package bridge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmkd/socket/cmd/cmkctl/internal/clitest"
)

// TestBridgeAndAnotherDaemon: a daemon that starts again is found by the first request, on a
// new connection.
func TestBridgeAndAnotherDaemon(t *testing.T) {
	t.Parallel()
	cred := NewCredential()
	b, stop := bridgedService(t, cred)
	c := sdk(b, cred, "us-east-1")
	for range 3 {
		if _, err := c.ListAliases(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		path := b.server.Handler.(*bridgeHandler).socket
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var err error
		if stop, err = clitest.StartService(path, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stop() })
	}
}

// answering is a bridge to a daemon that gives each request one answer, byte for byte, and
// closes the connection.
func answering(t *testing.T, cred Credential, answer string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "bridge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
			}
			if err != nil {
				t.Error(err)
			}
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	b, err := Start(t.Context(), filepath.Join(dir, "s"), 0, nil, cred)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// TestBridgeAndOddAnswers: what a client gets for what a daemon answers.
func TestBridgeAndOddAnswers(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nConnection: close, X-Gone\r\nKeep-Alive: timeout=5\r\n"
	long := strings.Repeat("0123456789", 30_000)
	for name, tt := range map[string]struct {
		answer string
		status int // 0: none that is whole
		body   string
	}{
		"whole":           {head + "Content-Length: 3\r\n\r\nabc", 200, "abc"},
		"long":            {head + "Content-Length: 300000\r\n\r\n" + long, 200, long},
		"empty":           {head + "Content-Length: 0\r\n\r\n", 200, ""},
		"continue first":  {"HTTP/1.1 100 Continue\r\n\r\n" + head + "Content-Length: 3\r\n\r\nabc", 200, "abc"},
		"chunked":         {head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde"},
		"until the end":   {head + "\r\nabc", 200, "abc"},
		"truncated":       {head + "Content-Length: 5\r\n\r\nabc", 0, ""},
		"a chunk missing": {head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0, ""},
		"half a head":     {head, 503, ""},
		"none":            {"", 503, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cred := NewCredential()
			b := answering(t, cred, tt.answer)
			var c http.Client
			defer c.CloseIdleConnections()
			resp, err := c.Do(signed(t, b, cred, "{}", nil))
			if err != nil {
				if tt.status != 0 {
					t.Error(err)
				}
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			switch {
			case tt.status == 0:
				if err == nil {
					t.Errorf("it is taken for whole: %d %q", resp.StatusCode, body)
				}
			case err != nil || resp.StatusCode != tt.status || tt.status == 200 && string(body) != tt.body:
				t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), err)
			case tt.status == 200 && (resp.Header.Get("X-A") != "b" || resp.Header.Get("Keep-Alive") != ""):
				t.Errorf("the header is %v", resp.Header)
			}
		})
	}
}
