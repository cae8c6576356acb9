package socket

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// describe is a handler whose answer is what it was asked.
var describe = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "a body that cannot be read", http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %s %q %d %v %t", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, r.TransferEncoding, r.Close)
	for _, key := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, " %s=%q", key, r.Header[key])
	}
	fmt.Fprintf(w, " %q", body)
})

// malformed are requests on which servers differ (RFC 9112, section 11.2), and others that are
// usual, between two plain ones.
var malformed = []string{
	"",
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 03\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\x00\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
	"POST / HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc",
	"POST / HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 30\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nExpect: something\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\nContent-Length: 3\r\n\r\nabc",
	"\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	"\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("z", 70_000),
	"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("z", 60_000),
	"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("z", 9000) + "\r\nContent-Length: 3\r\n\r\nabc",
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"\x16\x03\x01\x00\xf4\x01\x00",
	"{}",
}

// TestLikeNetHTTP: to whatever bytes, cut in whatever way, the answers are those of net/http.
func TestLikeNetHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, describe)
	reference := serveNetHTTP(t, describe)
	const before = "POST / HTTP/1.1\r\nHost: x\r\nX-Before: 1\r\nContent-Length: 5\r\n\r\nfirst"
	const after = "POST / HTTP/1.1\r\nHost: x\r\nX-After: 1\r\nContent-Length: 4\r\n\r\nlast"
	for i, request := range malformed {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			all := before + request + after
			for _, parts := range [][]string{
				{all},
				{before, request, after},
				{before, request + after},
				{before + request, after},
				{request + after},
				{request, after},
				{all[:20], all[20:]},
				{before, request[:len(request)/2], request[len(request)/2:] + after},
				{before[:len(before)-2], before[len(before)-2:] + request, after},
			} {
				got, want := converse(t, s.path, parts), converse(t, reference, parts)
				if got != want {
					t.Errorf("%.200q in %d parts:\ngot  %.1000s\nwant %.1000s", all, len(parts), got, want)
				}
			}
		})
	}
}

// serveNetHTTP serves h with nothing but net/http, and returns the path of the socket.
func serveNetHTTP(t testing.TB, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, MaxHeaderBytes: 16 << 10, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return path
}

// converse sends parts, each once the server has read the one before, and returns all that is
// answered, without dates, up to the end of the connection.
func converse(t testing.TB, path string, parts []string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	for i, part := range parts {
		if i > 0 {
			time.Sleep(2 * time.Millisecond) // that it is read in parts matters, and does not decide
		}
		if _, err := io.WriteString(conn, part); err != nil { // the server has closed the connection
			break
		}
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	var b strings.Builder
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			// How a connection ends depends on what it had not read yet.
			return b.String()
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		resp.Header.Del("Date")
		resp.Header.Del("Content-Length") // net/http sends long answers in chunks
		fmt.Fprintf(&b, "%s %s %t %v %s\n", resp.Status, resp.Proto, resp.Close, resp.Header, body)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return b.String()
		}
	}
}

// FuzzLikeNetHTTP is TestLikeNetHTTP for any bytes.
func FuzzLikeNetHTTP(f *testing.F) {
	for _, request := range malformed {
		f.Add([]byte(request), []byte(smallRequest))
	}
	path := filepath.Join(f.TempDir(), "s")
	s, err := Listen(f.Context(), Config{Path: path})
	if err != nil {
		f.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { served <- s.Serve(ctx, describe) }()
	f.Cleanup(func() { stop(); <-served })
	reference := serveNetHTTP(f, describe)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		parts := []string{string(first), string(second)}
		if got, want := converse(t, path, parts), converse(t, reference, parts); got != want {
			t.Errorf("got  %.1000s\nwant %.1000s", got, want)
		}
	})
}

// TestPlainBuffers: requests and answers are overwritten once they are through, also those that
// fail.
func TestPlainBuffers(t *testing.T) { //nolint:paralleltest // others would have the buffers by then
	const secret = "a long secret"
	seen := make(chan []byte, 2)
	s := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := r.Body.(*plainBody)
		seen <- (*b.conn.buf)[:cap(*b.conn.buf)]
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Error(err)
		}
		seen <- w.(*plainAnswer).body.Bytes()
		if r.Header.Get("X-Panic") != "" {
			panic(http.ErrAbortHandler)
		}
	}))
	for _, header := range []string{"", "X-Panic: 1\r\n"} {
		c := dial(t, s.path)
		c.send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", header, len(secret), secret))
		if header == "" {
			if a := c.receive(t); a.body != secret {
				t.Errorf("answered %q", a.body)
			}
			c.Close()
		} else {
			c.expectClosed(t)
		}
		eventually(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
		for i := range 2 {
			if b := <-seen; bytes.Contains(b, []byte(secret)) {
				t.Errorf("buffer %d still has the secret", i)
			}
		}
		s.Stats() // happens before the next connection, which may have the same buffers
	}
}

// TestPlainDeadlines: a client has the time for a body and for taking an answer that net/http
// would give it.
func TestPlainDeadlines(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s := serve(t, Config{WriteTimeout: 50 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		_, _ = w.Write(make([]byte, 4<<20)) // more than a socket's buffers hold
	}))
	c := dial(t, s.path)
	c.send(t, smallRequest)
	<-entered
	eventually(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
	if _, err := c.tryReceive(); err == nil {
		t.Error("the answer was sent after its time")
	}

	s = serve(t, Config{WriteTimeout: time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(2 * time.Millisecond)
		_, _ = io.WriteString(w, "late")
	}))
	c = dial(t, s.path)
	c.send(t, smallRequest)
	c.expectClosed(t)

	s = serve(t, Config{ReadHeaderTimeout: 20 * time.Millisecond}, ok)
	dial(t, s.path).expectClosed(t) // without a byte
}

// TestRefusedBody: who is refused while still sending gets to read why.
func TestRefusedBody(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{MaxBodyBytes: 8}, ok)
	c := dial(t, s.path)
	c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
	c.receive(t).expectRefusal(t, http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException")
	c.send(t, strings.Repeat("z", 60_000))
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.r.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("the connection goes on: %v", err)
	}
}
