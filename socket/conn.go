package socket

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/socket/internal/forget"
)

// conn is a connection with what its peer may use. It is known to the server
// from accept to Close.
type conn struct {
	*net.UnixConn
	raw        syscall.RawConn // of UnixConn
	server     *Server
	peer       *Peer
	privileged bool // see [Config.Privileged]
	account    *account
	was        admission
	once       sync.Once
	closed     chan struct{}
	// idle is set between requests, and before the first byte of the first.
	idle atomic.Bool
	// serving is set from the end of the header until the handler has returned.
	serving atomic.Bool
	// pause is how long the connection is not read; used by the goroutine that
	// serves it.
	pause    time.Duration
	current  current
	hangUpID uint64 // in server.hangUps
	replay   replay
	// buffers are net/http's for the connection.
	buffers forget.Buffers
	// granted tells who waits for a turn that it has come, or will not.
	granted chan bool

	// accounts.mu guards what follows.
	gone, counted bool
	turn          bool
	since         time.Time // it has been idle, or waiting
	in            *connList
	prev, next    *conn
}

func (s *Server) newConn(raw *net.UnixConn, peer *Peer) (*conn, error) {
	c := &conn{UnixConn: raw, server: s, peer: peer, closed: make(chan struct{}), granted: make(chan bool, 1)}
	c.privileged = s.cfg.Privileged(*peer)
	c.idle.Store(true)
	var err error
	c.raw, err = raw.SyscallConn()
	return c, err
}

// class is what statistics count the connection's requests under.
func (c *conn) class() Class {
	if c.privileged {
		return Privileged
	}
	return Users
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if n := c.readAgain(p); n > 0 {
		return n, nil
	}
	if len(p) == 1 && (c.serving.Load() || c.idle.Load()) {
		// net/http watches for the end of the stream while a call runs, from just before the
		// handler is called: if the request came with the one before, the connection is idle then.
		return c.UnixConn.Read(p)
	}
	var n int
	var err error
	if c.idle.Load() {
		n, err = c.readFirst(p)
	} else {
		n, err = c.readMore(p)
	}
	if err != nil && len(p) > 1 && c.serving.Load() { // in a body, net/http reads no more
		c.buffers.End()
	}
	c.buffers.Filter(p[:n])
	return n, err
}

// replay is what has been read, and net/http is to read. Its watch for the end of the stream may
// go on reading for a moment when the connection has ended.
type replay struct {
	mu    sync.Mutex // guards what follows
	bytes []byte
}

// readAgain reads what has been read before. It returns 0 if there is no more.
func (c *conn) readAgain(p []byte) int {
	r := &c.replay
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bytes) == 0 {
		return 0
	}
	c.buffers.Begin(p)
	n := copy(p, r.bytes)
	clear(r.bytes[:n])
	if r.bytes = r.bytes[n:]; len(r.bytes) == 0 {
		r.bytes = nil // for the rest of the connection
	}
	c.buffers.Filter(p[:n])
	return n
}

// forget overwrites what has not been read again, and will not be.
func (r *replay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.bytes)
	r.bytes = nil
}

// readFirst reads the first bytes of a request, and waits for its turn. They end
// the rest: net/http would call a connection active only when the whole header
// is there.
func (c *conn) readFirst(p []byte) (int, error) {
	c.buffers.Begin(p)
	if !c.wait(c.pause) {
		return 0, net.ErrClosed
	}
	c.pause = 0
	n, err := c.UnixConn.Read(p)
	if n > 0 {
		c.idle.Store(false)
		if err := c.takeTurn(); err != nil {
			clear(p[:n]) // nobody looks at it
			return 0, err
		}
	}
	return n, err
}

// takeTurn waits for the turn of the request. It fails if the connection is
// closed, at either end, before that comes.
func (c *conn) takeTurn() error {
	waited, ok := c.server.accounts.acquire(c)
	switch {
	case !ok:
		return net.ErrClosed
	case waited && c.hungUp():
		c.server.accounts.release(c)
		return io.EOF
	default:
		return nil
	}
}

// readMore reads on in a request. While nothing comes, another has the turn.
func (c *conn) readMore(p []byte) (int, error) {
	n, again := 0, false
	var readErr error
	err := c.raw.Read(func(fd uintptr) bool {
		n, readErr = unix.Read(int(fd), p)
		again = errors.Is(readErr, unix.EAGAIN)
		return true
	})
	if err == nil && n > 0 {
		return n, nil
	}
	if err == nil && again {
		c.server.accounts.release(c)
	}
	n, err = c.UnixConn.Read(p) // which words the error, too
	if n > 0 {
		if err := c.takeTurn(); err != nil {
			clear(p[:n]) // nobody looks at it
			return 0, err
		}
	}
	return n, err
}

// Write implements net.Conn. The turn ends when the answer leaves: a client
// that does not take it must not keep the turn.
func (c *conn) Write(p []byte) (int, error) {
	c.server.accounts.release(c)
	n, err := c.buffers.Write(c.UnixConn, p)
	if err != nil {
		c.buffers.End()
	}
	return n, err
}

// wait lets d pass. It returns false if the connection has been closed.
func (c *conn) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closed:
		return false
	}
}

// hungUp reports whether the peer has closed the connection, not just its own
// half of it.
func (c *conn) hungUp() bool {
	hup := false
	err := c.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP is always asked for
		n, err := unix.Poll(p, 0)
		hup = err == nil && n > 0 && p[0].Revents&unix.POLLHUP != 0
	})
	return hup || err != nil
}

// Close implements net.Conn. net/http may call it more than once.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.server.forget(c)
		c.server.hangUps.remove(c)
		c.server.accounts.disconnect(c)
		c.hangUp() // there is nobody left to answer
	})
	return c.UnixConn.Close()
}

// accept returns connections whose peer is known and accounted for, and closes the
// others.
func (s *Server) accept() (*conn, error) {
	for {
		b := s.binding.Load()
		raw, err := b.AcceptUnix()
		if err != nil && s.binding.Load() != b {
			continue // the socket file has been made again
		}
		if err != nil {
			return nil, err
		}
		peer, err := readPeer(raw)
		if err != nil {
			s.cfg.Log.Warn("closing a connection without a known peer", "error", err)
			_ = raw.Close()
			continue
		}
		if s.cfg.Barred != nil && s.cfg.Barred(*peer) {
			_ = raw.Close()
			continue
		}
		c, err := s.newConn(raw, peer)
		if err != nil {
			_ = raw.Close()
			continue
		}
		was, evicted := s.accounts.connect(c)
		if evicted != nil {
			_ = evicted.Close()
		}
		if was == dropped {
			_ = raw.Close()
			continue
		}
		s.remember(c)
		if err := s.hangUps.add(c); err != nil {
			s.cfg.Log.Warn("closing a connection", "error", err)
			_ = c.Close()
			continue
		}
		if s.draining.Load() {
			// CloseIdle may have run before the connection was known.
			_ = c.Close()
			continue
		}
		return c, nil
	}
}

func (s *Server) remember(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 {
		s.empty.Broadcast()
	}
}

// each calls f with the connections that are open.
func (s *Server) each(f func(*conn)) {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range open {
		f(c)
	}
}

// connState is the http.Server.ConnState that notices when a request has been
// parsed, after which net/http watches the stream, and when it has ended.
func connState(nc net.Conn, state http.ConnState) {
	c, ok := nc.(*conn)
	switch {
	case !ok:
	case state == http.StateActive:
		c.serving.Store(true)
	case state == http.StateClosed:
		c.buffers.Wipe()
		c.replay.forget()
	case state == http.StateIdle:
		c.buffers.Wipe() // to HEAD none is sent
		c.idle.Store(true)
		c.server.accounts.rest(c)
		if c.server.draining.Load() {
			_ = c.Close() // CloseIdle may have run just before
		}
	}
}

// CloseIdle closes the connections that are between two requests. A client
// that was about to use one finds it closed before it gets an answer, and
// connects again.
func (s *Server) CloseIdle() {
	s.each(func(c *conn) {
		if c.idle.Load() {
			_ = c.Close()
		}
	})
}
