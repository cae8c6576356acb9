package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/socket/internal/forget"
	"cmkd/socket/internal/plain"
)

// plainConn serves the requests on a connection, one after the other, as long as they are plain:
// such as SDKs make. At the first that is not it hands the connection over to net/http.
// docs/decisions/0024-plain-requests.md says why.
//
// While it waits for a request, a connection has no buffers. Those that it has used are
// overwritten, since requests and answers carry plaintexts.
type plainConn struct {
	*conn
	// ctx is that of all calls: it ends when the client hangs up, or the connection is not
	// served here any longer.
	ctx    context.Context
	cancel context.CancelFunc
	head   plain.Head
	// first has what all requests have in common; request is the one that is served.
	first, request http.Request
	body           plainBody
	answer         plainAnswer
	end            time.Time // the read deadline

	// buf has the request, n bytes or less of it; nil while none is there.
	buf     *[]byte
	n       int
	readErr error
	// readable and writable are the functions of syscall.RawConn, made once.
	readable, writable func(fd uintptr) bool
}

// requestSize is the size in bytes of the buffers for requests: an Encrypt of 4 KiB fits.
const requestSize = 8 << 10

// requests keeps buffers. They come back overwritten.
var requests = sync.Pool{New: func() any { b := make([]byte, requestSize); return &b }}

func newPlainConn(c *conn) *plainConn {
	p := &plainConn{conn: c}
	p.ctx, p.cancel = context.WithCancel(context.WithValue(c.server.base, connKey{}, c))
	p.calling(p.cancel)
	first := http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/"}, RequestURI: "/",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		RemoteAddr: c.RemoteAddr().String(),
	}
	p.first = *first.WithContext(p.ctx)
	p.readable, p.writable = p.tryRead, p.answer.tryWrite
	return p
}

// serveConn serves c until it ends, or net/http does.
func (s *Server) serveConn(c *conn, h http.Handler, srv *http.Server) {
	if newPlainConn(c).serve(h) {
		handOver(c, srv)
	}
}

// serve serves plain requests, and reports whether net/http is to go on. If not, the connection
// is closed, and nothing of it left in memory.
func (p *plainConn) serve(h http.Handler) (other bool) {
	defer func() {
		if v := recover(); v != nil { // no handler's: those are answered
			p.server.cfg.Log.Error("serving a connection panicked", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		}
		p.calling(nil)
		p.cancel()
		if !other {
			p.answer.forget()
			p.forget()
			_ = p.Close()
		}
	}()
	for first := true; ; first = false {
		if !p.next() {
			return false
		}
		request := (*p.buf)[:p.n]
		length := p.head.Parse(request)
		if length == 0 || length > p.server.cfg.MaxHeaderBytes {
			if first {
				p.replay.bytes = request
				return true
			}
			return p.another()
		}
		if !p.call(length, h) {
			return false
		}
		p.rest()
		if len(withoutBreak((*p.buf)[:p.n])) > 0 { // the next request came with this one
			p.idle.Store(false)
			return p.another()
		}
		p.forget()
	}
}

// another leaves a request that is not the connection's first to net/http, which looks at four
// bytes before it takes them for a request. It returns false if the connection ends before.
func (p *plainConn) another() bool {
	for p.n < 4 {
		p.expect()
		n, err := p.readMore((*p.buf)[p.n:])
		if err != nil {
			return false
		}
		p.n += n
	}
	p.replay.bytes = withoutBreak((*p.buf)[:p.n])
	return true
}

// withoutBreak is request without the line break with which old clients end the body of a POST,
// and which net/http takes from them (RFC 9112, section 2.2).
func withoutBreak(request []byte) []byte {
	for range 4 {
		if len(request) > 0 && (request[0] == '\r' || request[0] == '\n') {
			request = request[1:]
		}
	}
	return request
}

// next waits for the first bytes of a request and for its turn. It returns false if the
// connection has ended.
func (p *plainConn) next() bool {
	if !p.wait(p.pause) {
		return false
	}
	p.pause = 0
	p.expect()
	if err := p.raw.Read(p.readable); err != nil || p.readErr != nil || p.n == 0 {
		return false
	}
	p.idle.Store(false)
	return p.takeTurn() == nil
}

// expect gives the client time for its next request. The deadline is set with some to spare, so
// as not to be set for each.
func (p *plainConn) expect() {
	now, limit := time.Now(), p.server.cfg.IdleTimeout
	if p.end.IsZero() && p.first.Header == nil {
		limit = p.server.cfg.ReadHeaderTimeout
	}
	if left := p.end.Sub(now); left < limit || left > limit+limit/16 {
		p.end = now.Add(limit + limit/16)
		_ = p.SetReadDeadline(p.end) // fails on a closed connection, as the read will
	}
}

// tryRead is what syscall.RawConn calls when there may be something to read.
func (p *plainConn) tryRead(fd uintptr) bool {
	p.buf = requests.Get().(*[]byte)
	p.n, p.readErr = read(int(fd), *p.buf)
	if errors.Is(p.readErr, unix.EAGAIN) {
		p.forget()
		return false
	}
	return true
}

// read is read(2).
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return max(0, n), err
		}
	}
}

// forget overwrites the request and gives its buffer back.
func (p *plainConn) forget() {
	if p.buf != nil {
		clear((*p.buf)[:max(0, p.n)])
		requests.Put(p.buf)
	}
	p.buf, p.n = nil, 0
}

// call answers a request, the header of which takes the first length bytes of the buffer, and
// leaves in it what follows the request. It returns false if the connection ends with it.
func (p *plainConn) call(length int, h http.Handler) bool {
	began := time.Now()
	whole := min(p.n, length+p.head.Length)
	p.body = plainBody{conn: p, ahead: (*p.buf)[length:whole], left: p.head.Length, end: began.Add(p.server.cfg.ReadTimeout)}
	p.first.Header, p.first.Host, p.first.ContentLength = p.head.Header, p.head.Host, int64(p.head.Length)
	p.first.Body = &p.body
	p.answer.begin(p, began.Add(p.server.cfg.WriteTimeout))

	r := &p.request
	*r = p.first // without what the handlers of the request before have noted
	answered := p.handle(h, r)
	p.body.skip()
	keep := answered && !p.server.draining.Load() && p.answer.header.Get("Connection") != "close"
	if keep && p.body.left > 0 {
		forget.Discard(r)
	}
	keep = keep && p.body.left == 0

	left := copy(*p.buf, (*p.buf)[whole:p.n])
	clear((*p.buf)[left:p.n])
	p.n = left
	if answered {
		keep = p.answer.send(keep)
	}
	p.answer.forget()
	if answered && p.body.left > 0 {
		p.body.linger()
	}
	return keep
}

// handle calls h within the limits. It returns false if there is no answer.
func (p *plainConn) handle(h http.Handler, r *http.Request) (answered bool) {
	defer func() {
		if v := recover(); v != nil {
			if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			answered = false
		}
	}()
	p.server.limit(p.conn, &p.answer, r, h)
	return true
}

// rest notes that a request has been answered.
func (p *plainConn) rest() {
	p.idle.Store(true)
	p.server.accounts.rest(p.conn)
	if p.server.draining.Load() {
		_ = p.Close() // CloseIdle may have run just before
	}
}

// handOver has srv serve c from now on, beginning with what is to be read again.
func handOver(c *conn, srv *http.Server) {
	l := &oneConn{conn: c}
	if err := srv.Serve(l); l.conn != nil { // it takes no more
		c.server.cfg.Log.LogAttrs(context.Background(), slog.LevelDebug, "closing a connection", slog.Any("error", err))
		c.replay.forget()
		_ = c.Close()
	}
}

// oneConn is a listener that has accepted one connection.
type oneConn struct{ conn *conn }

var errNoMore = errors.New("there was one connection")

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, errNoMore
	}
	c := l.conn
	l.conn = nil
	return c, nil
}

// Close implements net.Listener.
func (l *oneConn) Close() error { return nil }

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// acceptAll serves each connection that is accepted, until the listener is closed or broken.
// While the process lacks what a connection takes, it tries again, more and more slowly.
func (s *Server) acceptAll(serve func(*conn)) error {
	const first, last = 5 * time.Millisecond, time.Second
	for delay := first; ; {
		c, err := s.accept()
		var errno syscall.Errno
		switch {
		case err == nil:
			delay = first
			go serve(c)
		case errors.As(err, &errno) && errno.Temporary():
			s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "accepting connections, will retry", slog.Any("error", err))
			time.Sleep(delay)
			delay = min(2*delay, last)
		default:
			return err
		}
	}
}
