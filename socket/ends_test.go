package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// untilEnd is a handler whose calls go on until their context ends.
func untilEnd() (h http.Handler, entered, ended chan struct{}) {
	entered, ended = make(chan struct{}), make(chan struct{})
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	}), entered, ended
}

// TestCallsEndWithTheListener: a server that cannot go on gives up the calls that it would not
// answer any more.
func TestCallsEndWithTheListener(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		h, entered, ended := untilEnd()
		s := serve(t, Config{}, h)
		dial(t, s.path).send(t, smallRequest)
		<-entered
		s.Close()
		if err := s.wait(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		<-ended
	})
}

// TestHangUpIsNoticed also by calls that are not the last on their connection, and after the
// client has closed its half.
func TestHangUpIsNoticed(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		for _, after := range []string{"", smallRequest[:1], smallRequest} {
			for _, half := range []bool{false, true} {
				h, entered, ended := untilEnd()
				s := serve(t, Config{}, h)
				c := dial(t, s.path)
				c.send(t, smallRequest+after)
				<-entered
				if half {
					_ = c.Conn.(*net.UnixConn).CloseWrite()
				}
				c.Close()
				<-ended
				if after == smallRequest { // it may have been read already, and ends at once
					select {
					case <-entered:
						<-ended
					case <-s.gone():
					}
				}
			}
		}
	})
}

// gone is closed when the server has no connection.
func (s *testServer) gone() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.waitConns(ctx)
	}()
	return done
}

type valueKey struct{}

// TestCallsHaveTheValuesOfServe: contexts derive from that of Serve.
func TestCallsHaveTheValuesOfServe(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		srv, err := Listen(t.Context(), Config{Path: socketPath(t)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.WithValue(t.Context(), valueKey{}, "a value"))
		served, got := make(chan error, 1), make(chan any, 1)
		go func() {
			served <- srv.Serve(ctx, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got <- r.Context().Value(valueKey{})
			}))
		}()
		c := dial(t, srv.Addr().String())
		c.send(t, smallRequest)
		if v := <-got; v != "a value" {
			t.Errorf("the call has %v", v)
		}
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestEmptyAnswer: an answer without a body has no type, as with net/http.
func TestEmptyAnswer(t *testing.T) {
	t.Parallel()
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	parts := []string{smallRequest}
	got, want := converse(t, serve(t, Config{}, h).path, parts), converse(t, serveNetHTTP(t, h), parts)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestPipelinedCallIsNotIdle: a request that came with the one before makes its connection as
// busy as any other.
func TestPipelinedCallIsNotIdle(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		var n atomic.Int32
		entered, release := make(chan struct{}), make(chan struct{})
		s := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			Throttled(r.Context()) // what it writes net/http must not read meanwhile
			if n.Add(1) == 3 {
				close(entered)
				<-release
			}
			_, _ = io.WriteString(w, "{}")
		}))
		c := dial(t, s.path)
		c.send(t, strings.Repeat(smallRequest, 3))
		c.receive(t)
		c.receive(t)
		<-entered
		s.CloseIdle()
		close(release)
		if _, err := c.tryReceive(); err != nil {
			t.Errorf("the third call is not answered: %v", err)
		}
	})
}

// TestReplayIsForgotten: what net/http was to read again and did not is overwritten.
func TestReplayIsForgotten(t *testing.T) {
	t.Parallel()
	conns, bufs := make(chan *conn, 1), make(chan []byte, 1)
	s := serve(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b := r.Body.(*plainBody)
		conns <- b.conn.conn
		bufs <- (*b.conn.buf)[:cap(*b.conn.buf)]
	}))
	c := dial(t, s.path)
	c.send(t, smallRequest+"POST / HTTP/1.1\r\nHost: x\r\nX Y: 1\r\nContent-Length: 6500\r\n\r\n"+strings.Repeat("secret", 1000))
	c.receive(t)
	if a := c.receive(t); a.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %d", a.StatusCode)
	}
	served := <-conns
	eventually(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
	eventually(t, "nothing to read again", func() bool {
		served.replay.mu.Lock()
		defer served.replay.mu.Unlock()
		return served.replay.bytes == nil
	})
	if bytes.Contains(<-bufs, []byte("secret")) {
		t.Error("the request is still there")
	}
}

// TestPanicOutsideCalls: what was read is overwritten also where the server itself fails.
func TestPanicOutsideCalls(t *testing.T) { //nolint:paralleltest // others would have the buffer by then
	bufs := make(chan []byte, 1)
	s := serve(t, Config{MaxBodyBytes: 3, Refused: func(r *http.Request, _, _, _ string) bool {
		b := r.Body.(*plainBody)
		bufs <- (*b.conn.buf)[:b.conn.n]
		panic("a fault")
	}}, ok)
	c := dial(t, s.path)
	c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsecret")
	c.expectClosed(t)
	eventually(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
	if bytes.Contains(<-bufs, []byte("secret")) {
		t.Error("the request is still there")
	}
}

// TestReadInVain: what is read on a connection that ends before its turn comes is overwritten.
func TestReadInVain(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	for name, read := range map[string]func(*conn, []byte) (int, error){"first": (*conn).readFirst, "more": (*conn).readMore} {
		c, client := unserved(t, s)
		s.accounts.disconnect(c) // no turn comes any more
		buf := make([]byte, 16)
		done := make(chan error, 1)
		go func() {
			_, err := read(c, buf)
			done <- err
		}()
		time.Sleep(5 * time.Millisecond) // readMore takes what is there already
		if _, err := unix.Write(client, []byte("secret")); err != nil {
			t.Fatal(err)
		}
		err := <-done
		if name == "first" && err == nil || bytes.Contains(buf, []byte("secret")) && err != nil {
			t.Errorf("%s: %v, and %q is left", name, err, buf)
		}
	}
}

// TestClosedConnectionIsNotWatched: a connection that was closed before it is watched leaves
// nothing behind.
func TestClosedConnectionIsNotWatched(t *testing.T) {
	t.Parallel()
	conns := make(chan *conn, 1)
	s := serve(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { conns <- r.Context().Value(connKey{}).(*conn) }))
	c := dial(t, s.path)
	c.call(t)
	served := <-conns
	c.Close()
	eventually(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
	if err := s.hangUps.add(served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("watched: %v", err)
	}
	s.hangUps.mu.Lock()
	defer s.hangUps.mu.Unlock()
	if n := len(s.hangUps.conns); n != 0 {
		t.Errorf("%d connections are still known", n)
	}
}

// TestNothingIsLeft: calls that end in every way, on connections that end in every way, give
// back all that they took.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	const brief = 300 * time.Millisecond
	s := serve(t, Config{
		ReadTimeout: brief, ReadHeaderTimeout: brief, WriteTimeout: brief, IdleTimeout: brief,
		Limits: Limits{Connections: 20, Calls: 10, CallsPerUID: 5},
	}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Do") {
		case "panic":
			panic("as it should")
		case "abort":
			panic(http.ErrAbortHandler)
		case "leave":
		case "big":
			_, _ = w.Write(make([]byte, 1<<20))
		case "wait":
			<-r.Context().Done()
		default:
			_, _ = io.Copy(w, r.Body)
		}
	}))
	var clients sync.WaitGroup
	for seed := range 16 {
		clients.Go(func() {
			n := seed
			next := func(limit int) int { n = (n*1103515245 + 12345) & 0x7fffffff; return (n >> 8) % limit }
			for range 12 {
				misbehave(s.path, next)
			}
		})
	}
	clients.Wait()
	eventually(t, "nothing is left", func() bool {
		s.accounts.mu.Lock()
		defer s.accounts.mu.Unlock()
		for _, acct := range s.accounts.byUID {
			if acct.running != 0 || acct.waiting.length != 0 || acct.idle.length != 0 || acct.calls.Load() != 0 {
				return false
			}
		}
		return s.accounts.conns == 0 && s.accounts.refusing == 0 && s.accounts.calls.Load() == 0
	})
}

// misbehave sends some requests, or a part of them, in pieces, and ends the connection in one of
// several ways, as next says.
func misbehave(path string, next func(limit int) int) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	var b strings.Builder
	for range 1 + next(4) {
		what := []string{"panic", "abort", "leave", "big", "wait", "", "", ""}[next(8)]
		body, extra := strings.Repeat("b", 1+next(20_000)), []string{"", "", "TE: trailers\r\n"}[next(3)]
		fmt.Fprintf(&b, "POST / HTTP/1.1\r\nHost: x\r\n%sX-Do: %s\r\nContent-Length: %d\r\n\r\n%s", extra, what, len(body), body)
	}
	text := b.String()
	if next(3) == 0 {
		text = text[:next(len(text))]
	}
	for err == nil && text != "" {
		n := min(len(text), 1+next(9000))
		_, err = io.WriteString(c, text[:n])
		text = text[n:]
	}
	switch next(3) {
	case 0:
		_ = c.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	case 1:
		_, _ = c.Read(make([]byte, 1+next(5000)))
	}
}
