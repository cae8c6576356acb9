package bridge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// upstream forwards requests to the daemon's socket, on connections that it keeps.
// http.Transport would leave plaintexts in buffers that nobody else can overwrite.
type upstream struct {
	connect func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []*daemonConn // the one used last is the last
	closed bool
}

// At most maxIdle connections wait for a request, for idleTime at most: less than the daemon
// lets them.
const (
	maxIdle  = 256
	idleTime = 90 * time.Second
)

// daemonConn is a connection to the daemon.
type daemonConn struct {
	net.Conn
	r      *bufio.Reader
	window []byte      // its buffer
	expiry *time.Timer // of a connection that waits
}

// windowReader reads from the connection, and notes where r's buffer is: the first read gets all
// of it.
type windowReader struct{ *daemonConn }

// Read implements io.Reader.
func (w windowReader) Read(p []byte) (int, error) {
	if w.window == nil {
		w.window = p
	}
	return w.Conn.Read(p)
}

// forward sends a request with a body, and gives the answer to use, which reads
// its body to the end. It fails if there is no whole answer.
func (u *upstream) forward(r *http.Request, body []byte, use func(*http.Response) error) error {
	ctx := r.Context()
	c, err := u.get(ctx)
	if err != nil {
		return err
	}
	defer func() { clear(c.window) }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // fails only for a connection that is closed
	closes, err := c.roundTrip(r, body, use)
	if !stop() || err != nil || closes {
		_ = c.Close() // there is nothing to lose
		return err
	}
	u.put(c)
	return nil
}

// roundTrip reports whether the daemon closes the connection afterwards.
func (c *daemonConn) roundTrip(r *http.Request, body []byte, use func(*http.Response) error) (closes bool, err error) {
	out := net.Buffers{requestHead(r, len(body)), body}
	_, writeErr := out.WriteTo(c.Conn)
	for {
		// Of an answer to a request that was not read whole, too.
		resp, err := http.ReadResponse(c.r, r) //nolint:bodyclose // Close would read on, and keep what it throws away
		if err != nil {
			return true, errors.Join(writeErr, fmt.Errorf("reading the answer: %w", err))
		}
		if resp.StatusCode >= http.StatusOK {
			return resp.Close || writeErr != nil, use(resp)
		}
	}
}

// hopByHop are headers of one connection (RFC 9110, section 7.6.1).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// requestHead is the head of a request as it goes to the daemon. The Host stays,
// and so does the signature good: the daemon reads the Region off it, and who calls
// if it knows the access key.
func requestHead(r *http.Request, length int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %s\r\n", r.Method, r.URL.RequestURI(), r.Host, strconv.Itoa(length))
	skip := map[string]bool{"Content-Length": true}
	for _, name := range hopByHop {
		skip[name] = true
	}
	_ = r.Header.WriteSubset(&b, skip) // a buffer takes all
	b.WriteString("\r\n")
	return b.Bytes()
}

// get returns a connection to the daemon, which has not closed it.
func (u *upstream) get(ctx context.Context) (*daemonConn, error) {
	for {
		c := u.take()
		if c == nil {
			break
		}
		if c.expiry.Stop() && c.alive() {
			return c, nil
		}
		_ = c.Close() // it is of no more use
	}
	conn, err := u.connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &daemonConn{Conn: conn}
	c.r = bufio.NewReader(windowReader{c})
	return c, nil
}

func (u *upstream) take() *daemonConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) == 0 {
		return nil
	}
	c := u.idle[len(u.idle)-1]
	u.idle = u.idle[:len(u.idle)-1]
	return c
}

// alive reports whether the daemon has left the connection open, and sent nothing
// that nobody asked for.
func (c *daemonConn) alive() bool {
	conn, ok := c.Conn.(syscall.Conn)
	if !ok || c.r.Buffered() > 0 {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peekErr error
	err = raw.Control(func(fd uintptr) {
		_, _, peekErr = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(peekErr, unix.EAGAIN)
}

// put keeps a connection for the next request.
func (u *upstream) put(c *daemonConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle) >= maxIdle {
		_ = c.Close() // it is of no more use
		return
	}
	c.expiry = time.AfterFunc(idleTime, func() { u.drop(c) })
	u.idle = append(u.idle, c)
}

// drop closes a connection that has waited long enough, unless it is in use.
func (u *upstream) drop(c *daemonConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.idle, c); i >= 0 {
		u.idle = slices.Delete(u.idle, i, i+1)
		_ = c.Close() // it is of no more use
	}
}

// Close closes the connections that wait, and those in use when they have ended.
func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, c := range u.idle {
		c.expiry.Stop()
		_ = c.Close() // it is of no more use
	}
	u.idle = nil
}
