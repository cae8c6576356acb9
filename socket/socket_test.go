package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(activatedEnv) != "" {
		os.Exit(serveActivated())
	}
	goleak.VerifyTestMain(m)
}

// testServer is a server under test, served until its test ends.
type testServer struct {
	*Server
	path   string
	stop   context.CancelFunc
	served chan error
}

// socketPath returns a path that every user can reach.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "s")
}

func serve(t *testing.T, cfg Config, h http.Handler) *testServer {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = socketPath(t)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 5 * time.Second
	}
	srv, err := Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &testServer{Server: srv, path: cfg.Path, stop: stop, served: make(chan error, 1)}
	go func() { s.served <- srv.Serve(ctx, h) }()
	t.Cleanup(func() {
		stop()
		if err := s.wait(); err != nil && !errors.Is(err, errWaited) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

var errWaited = errors.New("waited before")

// wait returns what Serve returned, once.
func (s *testServer) wait() error {
	err, ok := <-s.served
	if !ok {
		return errWaited
	}
	close(s.served)
	return err
}

// client is one connection on which requests are made one after the other.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, path string) *client {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, conn)
}

func newClient(t *testing.T, conn net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	return &client{Conn: conn, r: bufio.NewReader(conn)}
}

const smallRequest = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n" +
	"X-Amz-Target: TrentService.ListKeys\r\nContent-Length: 2\r\n\r\n{}"

// otherRequest is smallRequest as one that net/http serves.
var otherRequest = strings.Replace(smallRequest, "Host:", "TE: trailers\r\nHost:", 1)

// eachWay runs f with a request that is plain and with one that is not.
func eachWay(t *testing.T, f func(t *testing.T, smallRequest string)) {
	for name, request := range map[string]string{"plain": smallRequest, "other": otherRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, request)
		})
	}
}

// headOf is the header of a request before its length.
func headOf(request string) string {
	head, _, _ := strings.Cut(request, "Content-Length")
	return head
}

func (c *client) send(t *testing.T, request string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
}

// answer is an answer read whole.
type answer struct {
	*http.Response
	body string
}

func (c *client) receive(t *testing.T) answer {
	t.Helper()
	a, err := c.tryReceive()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (c *client) tryReceive() (answer, error) {
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body)}, err
}

func (c *client) call(t *testing.T) answer {
	t.Helper()
	c.send(t, smallRequest)
	return c.receive(t)
}

// expectRefusal checks the form in which the SDKs read an error.
func (a answer) expectRefusal(t *testing.T, status int, code string) {
	t.Helper()
	var body struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%d %q: %v", a.StatusCode, a.body, err)
	}
	if a.StatusCode != status || body.Type != code || body.Message == "" {
		t.Errorf("answered %d %s, want %d %s", a.StatusCode, a.body, status, code)
	}
	if ct := a.Header.Get("Content-Type"); ct != "application/x-amz-json-1.1" {
		t.Errorf("content type %q", ct)
	}
	if id := a.Header.Get("x-amzn-RequestId"); len(id) != 36 {
		t.Errorf("request ID %q", id)
	}
}

func (a answer) expectOK(t *testing.T) {
	t.Helper()
	if a.StatusCode != http.StatusOK {
		t.Errorf("answered %d %s", a.StatusCode, a.body)
	}
}

// expectClosed waits for the server to close the connection.
func (c *client) expectClosed(t *testing.T) {
	t.Helper()
	if a, err := c.tryReceive(); err == nil {
		t.Errorf("answered %d %s, want a closed connection", a.StatusCode, a.body)
	}
}

var ok = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })

// gate is a handler whose calls wait to be let go.
type gate struct {
	entered chan struct{}
	release chan struct{}
}

func newGate() *gate {
	return &gate{entered: make(chan struct{}, 64), release: make(chan struct{})}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.entered <- struct{}{}
	select {
	case <-g.release:
	case <-r.Context().Done():
	}
	io.WriteString(w, "{}")
}

// dialAs connects as another user. SO_PEERCRED records the credentials of the
// thread that connects, so it is enough to change those of one thread, which
// ends with its goroutine.
func dialAs(t *testing.T, path string, uid, gid uint32, groups []uint32) *client {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock
		fd, err := connectAs(path, uid, gid, groups)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("connecting as uid %d: %v", uid, r.err)
	}
	f := os.NewFile(uintptr(r.fd), path)
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, conn)
}

func connectAs(path string, uid, gid uint32, groups []uint32) (int, error) {
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups)))},
		{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return -1, errno
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// eventually waits for something that no channel reports.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		runtime.Gosched()
	}
}

func TestServeAnswersOnKeptConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	c := dial(t, s.path)
	for range 3 {
		c.call(t).expectOK(t)
	}
	c.send(t, strings.Replace(smallRequest, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	a := c.receive(t)
	a.expectOK(t)
	if !a.Close {
		t.Error("connection kept against the client's wish")
	}
	c.expectClosed(t)
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
		}
	})
	s := serve(t, Config{MaxBodyBytes: 8}, h)
	const head = "POST / HTTP/1.1\r\nHost: localhost\r\n"

	c := dial(t, s.path)
	c.send(t, head+"Content-Length: 8\r\n\r\n12345678")
	c.receive(t).expectOK(t)
	c.send(t, head+"Content-Length: 9\r\n\r\n123456789")
	c.receive(t).expectRefusal(t, http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException")
	c.expectClosed(t)

	c = dial(t, s.path)
	c.send(t, head+"Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n0\r\n\r\n")
	c.receive(t).expectOK(t)
	c.send(t, head+"Transfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n")
	if a := c.receive(t); a.StatusCode != http.StatusTeapot {
		t.Errorf("chunked body past the limit: %d %s", a.StatusCode, a.body)
	}
}

func TestHeaderLimit(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{MaxHeaderBytes: 1024}, ok)
	c := dial(t, s.path)
	// The server may answer and close before it has read all of it.
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Long: "+strings.Repeat("x", 6000)+"\r\nContent-Length: 0\r\n\r\n")
	if a := c.receive(t); a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("answered %d", a.StatusCode)
	}
}

func TestHeaderDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{ReadHeaderTimeout: 20 * time.Millisecond}, ok)
	c := dial(t, s.path)
	c.send(t, "POST / HTTP/1.1\r\nHost: ")
	c.expectClosed(t)
}

func TestBodyDeadline(t *testing.T) {
	t.Parallel()
	read := make(chan error, 1)
	s := serve(t, Config{ReadTimeout: 20 * time.Millisecond}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	}))
	c := dial(t, s.path)
	c.send(t, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading half a body: %v", err)
	}
}

func TestIdleDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{IdleTimeout: 20 * time.Millisecond}, ok)
	c := dial(t, s.path)
	c.call(t).expectOK(t)
	c.expectClosed(t)
}

func TestPanicIsAnsweredAndItsValueKeptOutOfTheLog(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := serve(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/runtime" {
			_ = []int{}[len(r.URL.Path)]
		}
		panic("the secret")
	}))
	for _, path := range []string{"/", "/runtime"} {
		c := dial(t, s.path)
		c.send(t, strings.Replace(smallRequest, " / ", " "+path+" ", 1))
		c.receive(t).expectRefusal(t, http.StatusInternalServerError, "KMSInternalException")
	}
	s.stop()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "the secret") {
		t.Errorf("log: %s", log.String())
	}
	for _, want := range []string{"panic=string", "index out of range", "socket_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q: %s", want, log.String())
		}
	}
}

// TestHalfClosed: a client that has closed its half of the connection gets its
// answer, and the call of one that has gone ends.
func TestHalfClosed(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		ended := make(chan string)
		release := make(chan struct{})
		s := serve(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // net/http listens for the end behind the body
			select {
			case <-r.Context().Done():
				ended <- r.Header.Get("X-Who")
			case <-release:
			}
		}))
		waits, goes := dial(t, s.path), dial(t, s.path)
		waits.send(t, strings.Replace(smallRequest, "Host:", "X-Who: waits\r\nHost:", 1))
		if err := waits.Conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the call", func() bool { return s.Stats().Calls == 1 })
		goes.send(t, strings.Replace(smallRequest, "Host:", "X-Who: goes\r\nHost:", 1))
		eventually(t, "the other call", func() bool { return s.Stats().Calls == 2 })
		goes.Close()
		if who := <-ended; who != "goes" {
			t.Errorf("the call of who %s was ended", who)
		}
		close(release)
		waits.receive(t).expectOK(t)
		waits.expectClosed(t)
	})
}
