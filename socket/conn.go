package socket

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// conn is a connection with what its peer may use. It is known to the server
// from accept to Close.
type conn struct {
	*net.UnixConn
	server  *Server
	peer    *Peer
	account *account
	was     admission
	once    sync.Once
	// idle is set between requests, and before the first byte of the first.
	idle atomic.Bool
}

// Read implements net.Conn. The first byte of a request ends the rest: net/http
// would call a connection active only when the whole header is there.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.UnixConn.Read(p)
	if n > 0 && c.idle.Load() {
		c.idle.Store(false)
	}
	return n, err
}

// hungUp reports whether the peer has closed the connection, not just its own
// half of it.
func (c *conn) hungUp() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	hup := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP is always asked for
		n, err := unix.Poll(p, 0)
		hup = err == nil && n > 0 && p[0].Revents&unix.POLLHUP != 0
	})
	return hup || err != nil
}

// Close implements net.Conn. net/http may call it more than once.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.server.forget(c)
		c.server.accounts.disconnect(c.peer.UID, c.account, c.was)
	})
	return c.UnixConn.Close()
}

// Accept implements net.Listener for net/http: it returns connections whose
// peer is known and accounted for, and closes the others.
func (s *Server) Accept() (net.Conn, error) {
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
		acct, was := s.accounts.connect(peer.UID)
		if was == dropped {
			_ = raw.Close()
			continue
		}
		c := &conn{UnixConn: raw, server: s, peer: peer, account: acct, was: was}
		c.idle.Store(true)
		s.remember(c)
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

// connState is the http.Server.ConnState that notices the end of a request.
func connState(c net.Conn, state http.ConnState) {
	if c, ok := c.(*conn); ok && state == http.StateIdle {
		c.idle.Store(true)
		if c.server.draining.Load() {
			_ = c.Close() // CloseIdle may have run just before
		}
	}
}

// CloseIdle closes the connections that are between two requests. A client
// that was about to use one finds it closed before it gets an answer, and
// connects again.
func (s *Server) CloseIdle() {
	s.mu.Lock()
	var idle []*conn
	for c := range s.conns {
		if c.idle.Load() {
			idle = append(idle, c)
		}
	}
	s.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}
