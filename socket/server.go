// Package socket serves HTTP/1.1 on a Unix socket to local processes whom the
// kernel identifies, within limits for each of them. It knows nothing of KMS
// but the form in which AWS words a refusal. Linux only.
package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a listening socket, see [Listen].
type Server struct {
	cfg      Config
	binding  atomic.Pointer[binding] // replaced by restore
	accounts *accounts
	hangUps  hangUps // open while it serves
	draining atomic.Bool
	drained  chan struct{}   // closed with draining
	base     context.Context // of all calls, without an end; set by Serve

	rebinding sync.Mutex // guards what follows, and replacing the binding
	closed    bool
	closeErr  error

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
	empty sync.Cond // signals that conns is empty or the drain timeout over
}

// Listen makes the socket that cfg describes, or takes the one that systemd
// passed to this process, which must be a single Unix stream socket. Clients
// can connect from now on and wait for [Server.Serve]. The error is [ErrInUse]
// if another process serves the path.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuration of the socket: %w", err)
	}
	files, err := maxFiles()
	if err != nil {
		return nil, err
	}
	limits, err := cfg.Limits.fit(files)
	if err != nil {
		return nil, err
	}
	if limits != cfg.Limits {
		cfg.Log.LogAttrs(ctx, slog.LevelWarn, "fewer connections than configured: RLIMIT_NOFILE",
			slog.Uint64("files", files), slog.Int("connections", limits.Connections), slog.Int("per_user", limits.ConnectionsPerUID))
		cfg.Limits = limits
	}
	b, err := bind(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		accounts: newAccounts(cfg.Limits),
		conns:    make(map[*conn]struct{}),
		drained:  make(chan struct{}),
	}
	s.binding.Store(b)
	s.empty.L = &s.mu
	return s, nil
}

// Addr is the address listened on.
func (s *Server) Addr() net.Addr { return s.binding.Load().Addr() }

// Stats returns counts of what is in use.
func (s *Server) Stats() Stats { return s.accounts.stats() }

// Close stops listening and removes the socket file if it is still the server's
// own. Connections are left alone. Only a server that never served needs it called.
func (s *Server) Close() error {
	s.rebinding.Lock()
	defer s.rebinding.Unlock()
	if !s.closed {
		s.closed, s.closeErr = true, s.binding.Load().Close()
	}
	return s.closeErr
}

// Serve hands requests to h until ctx ends. Then it stops listening, closes
// idle connections, refuses requests that begin, and waits up to the drain
// timeout for the calls in flight, which are answered. It returns nil once all
// are, and an error after it cut some off or could not go on listening.
// Requests have contexts derived from ctx without its cancellation, which end
// when their connection does. Serve may be called once.
func (s *Server) Serve(ctx context.Context, h http.Handler) error {
	if err := s.hangUps.open(); err != nil {
		return errors.Join(err, s.Close())
	}
	defer s.hangUps.close()
	go s.hangUps.watch()
	s.base = context.WithoutCancel(ctx)
	srv := &http.Server{
		Handler:           s.guard(h),
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.WriteTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    s.cfg.MaxHeaderBytes,
		ConnState:         connState,
		BaseContext:       func(net.Listener) context.Context { return s.base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
		// OPTIONS * is a request like any other.
		DisableGeneralOptionsHandler: true,
	}
	watched, unwatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(watched) })
	defer watching.Wait()
	defer unwatch()
	served := make(chan error, 1)
	go func() { served <- s.acceptAll(func(c *conn) { s.serveConn(c, h, srv) }) }()
	select {
	case err := <-served:
		// The listener broke. What runs is given up with it: without a
		// socket there is no service to continue.
		return errors.Join(fmt.Errorf("accepting connections: %w", err), s.closeAll(srv), s.Close())
	case <-ctx.Done():
	}
	err := s.drain(context.WithoutCancel(ctx), srv)
	if acceptErr := <-served; !errors.Is(acceptErr, net.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("accepting connections: %w", acceptErr))
	}
	return err
}

// drain ends the service of srv within the drain timeout. It does not use
// Shutdown, which drops requests that have been read without an answer and
// waits five seconds for connections that never sent a byte.
//
// Calls that are not answered by then are given up as if their callers had hung up, and have
// answerTimeout to say so to them.
func (s *Server) drain(ctx context.Context, srv *http.Server) error {
	s.draining.Store(true)
	close(s.drained)
	closeErr := s.Close()
	srv.SetKeepAlivesEnabled(false) // every answer is its connection's last
	s.CloseIdle()
	s.wait(ctx, s.cfg.DrainTimeout)
	var cutErr error
	if cut := s.accounts.calls.Load(); cut > 0 {
		cutErr = fmt.Errorf("draining: %d calls cut off after %s", cut, s.cfg.DrainTimeout)
		s.each((*conn).hangUp)
		s.wait(ctx, answerTimeout)
	}
	return errors.Join(cutErr, s.closeAll(srv), closeErr)
}

// closeAll closes all connections, those that srv serves and others.
func (s *Server) closeAll(srv *http.Server) error {
	err := srv.Close()
	s.each(func(c *conn) { _ = c.Close() })
	return err
}

// answerTimeout is how long calls that are given up may take to be answered.
const answerTimeout = 2 * time.Second

// wait waits until no connection and no call is left, or the time is over. A caller
// who hangs up takes the connection away before the call that it gave up has ended.
func (s *Server) wait(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.waitConns(ctx)
	for s.accounts.calls.Load() > 0 && ctx.Err() == nil {
		select { // rare, and over in a moment
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// waitConns waits until no connection is left, or ctx ends.
func (s *Server) waitConns(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.empty.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 && ctx.Err() == nil {
		s.empty.Wait()
	}
}
