package etcd

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between clients and a server, and can keep what they say to each other.
type Proxy struct {
	Endpoint string // of clients, a URL

	server  string
	running sync.WaitGroup

	mu       sync.Mutex    // guards what follows
	passing  chan struct{} // closed while all passes
	at       []byte        // what is silenced by, nil if nothing is
	conns    map[net.Conn]bool
	cut      bool
	finished bool
}

// NewProxy starts a proxy in front of the server, which lives as long as the test.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Endpoint: "http://" + l.Addr().String(), server: strings.TrimPrefix(s.Endpoint, "http://"),
		passing: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	close(p.passing)
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.connect(c) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.finished = true
		p.mu.Unlock()
		_ = l.Close()
		p.Resume()
		p.end()
		p.running.Wait()
	})
	return p
}

// connect passes what is said on a connection.
func (p *Proxy) connect(client net.Conn) {
	server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	refused := p.cut || p.finished
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	if refused {
		p.end()
	}
	p.running.Go(func() { p.pass(server, client, false) })
	p.pass(client, server, true)
}

// pass passes what comes from one end to the other, until either ends.
func (p *Proxy) pass(from, to net.Conn, asked bool) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.mu.Lock()
		if asked && p.at != nil && bytes.Contains(buffer[:n], p.at) {
			p.passing, p.at = make(chan struct{}), nil
		}
		passing := p.passing
		p.mu.Unlock()
		<-passing
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// Silence keeps everything from now on. No connection ends, and new ones are taken.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.passing:
		p.passing = make(chan struct{})
	default:
	}
}

// SilenceAt is Silence as soon as a client sends the text, which does not pass any more.
func (p *Proxy) SilenceAt(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = []byte(text)
}

// Silent reports whether everything is kept.
func (p *Proxy) Silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.passing:
		return false
	default:
		return true
	}
}

// Cut ends all connections, and new ones at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.end()
}

// Resume has everything pass again, what was kept first.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
	select {
	case <-p.passing:
	default:
		close(p.passing)
	}
}

// end ends all connections.
func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}
