package bridge

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"cmkd/socket/internal/forget"
)

// A connection is a stranger's until a request on it was signed well. Of those
// there are at most maxStrangers: one more, and the oldest is closed, so that
// whoever opens many keeps nobody out.
const maxStrangers = 256

// maxFriends bounds the others, so that a client which leaks connections runs
// out of them before the bridge does. Beyond it connections stay strangers'.
const maxFriends = 1024

// connections is the listener of a bridge.
type connections struct {
	net.Listener

	mu        sync.Mutex // guards what follows
	strangers *list.List // of [*connection], the oldest first
	friends   int
}

func newConnections(ln net.Listener) *connections {
	return &connections{Listener: ln, strangers: list.New()}
}

// connection is one that a bridge has accepted.
type connection struct {
	net.Conn
	all *connections

	buffers forget.Buffers // net/http's for it
	idle    atomic.Bool    // until the first bytes of a request
	serving atomic.Bool    // from the end of its head until the handler has returned

	// place is where it is among the strangers, nil if it is not; friend says
	// that it is none. Guarded by all.mu.
	place  *list.Element
	friend bool
}

// Accept implements [net.Listener].
func (l *connections) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, all: l}
	c.idle.Store(true)
	l.mu.Lock()
	var oldest *connection
	if l.strangers.Len() >= maxStrangers {
		oldest, _ = l.strangers.Front().Value.(*connection)
	}
	c.place = l.strangers.PushBack(c)
	l.mu.Unlock()
	if oldest != nil {
		oldest.drop()
	}
	return c, nil
}

// drop closes a stranger's connection without a word: to say goodbye in TLS could take as
// long as it wants.
func (c *connection) drop() {
	if secured, ok := c.Conn.(*tls.Conn); ok {
		_ = secured.NetConn().Close() // it is closed in any case
	}
	_ = c.Close()
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.all.mu.Lock()
	if c.place != nil {
		c.all.strangers.Remove(c.place)
		c.place = nil
	}
	if c.friend {
		c.all.friends--
		c.friend = false
	}
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// Read implements [net.Conn].
func (c *connection) Read(p []byte) (int, error) {
	if len(p) == 1 { // net/http watches for the end of the stream while a call runs
		return c.Conn.Read(p)
	}
	if c.idle.Load() {
		c.buffers.Begin(p)
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.idle.Store(false)
	}
	if err != nil && c.serving.Load() { // in a body, net/http reads no more
		c.buffers.End()
	}
	c.buffers.Filter(p[:n])
	return n, err
}

// Write implements [net.Conn].
func (c *connection) Write(p []byte) (int, error) {
	n, err := c.buffers.Write(c.Conn, p)
	if err != nil {
		c.buffers.End()
	}
	return n, err
}

// connectionState is the http.Server.ConnState that notices when a request has
// been read and when it has been answered.
func connectionState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.serving.Store(true)
	case http.StateIdle:
		c.buffers.Wipe()
		c.idle.Store(true)
	case http.StateClosed:
		c.buffers.Wipe()
	default:
	}
}

// welcome says that a request on the connection was signed well.
func (c *connection) welcome() {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	if c.place == nil || c.all.friends >= maxFriends {
		return
	}
	c.all.strangers.Remove(c.place)
	c.place, c.friend = nil, true
	c.all.friends++
}

// isFriend reports whether a request on the connection was signed well.
func (c *connection) isFriend() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.friend
}

type connectionKey struct{}

// withConnection and connectionOf carry the connection to the handler.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, conn)
}

func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}
