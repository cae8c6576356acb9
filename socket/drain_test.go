package socket

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDrainAnswersCallsInFlight(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		g := newGate()
		s := serve(t, Config{}, g)
		silent := dial(t, s.path)
		busy := dial(t, s.path)
		busy.send(t, smallRequest)
		<-g.entered
		// A connection in the middle of sending is not idle: its call is refused
		// in words.
		sending := dial(t, s.path)
		sending.send(t, smallRequest[:20])
		eventually(t, "the server reads", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			active := 0
			for c := range s.conns {
				if !c.idle.Load() {
					active++
				}
			}
			return active == 2
		})

		s.stop()
		silent.expectClosed(t)
		if _, err := net.Dial("unix", s.path); err == nil {
			t.Error("still accepting")
		}
		sending.send(t, smallRequest[20:])
		sending.receive(t).expectRefusal(t, http.StatusServiceUnavailable, "ServiceUnavailableException")
		sending.expectClosed(t)

		close(g.release)
		a := busy.receive(t)
		a.expectOK(t)
		if !a.Close {
			t.Error("the connection would be kept")
		}
		if err := s.wait(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// TestDrainDeadline: a call that is not answered in time is given up, and can
// still be answered; one that does not notice is cut off.
func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		g := newGate()
		s := serve(t, Config{DrainTimeout: 20 * time.Millisecond}, g)
		c := dial(t, s.path)
		c.send(t, smallRequest)
		<-g.entered
		s.stop()
		if err := s.wait(); err == nil || !strings.Contains(err.Error(), "1 calls cut off") {
			t.Errorf("Serve: %v", err)
		}
		c.receive(t).expectOK(t)
		c.expectClosed(t)

		entered, release := make(chan struct{}), make(chan struct{})
		defer close(release)
		s = serve(t, Config{DrainTimeout: 20 * time.Millisecond}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release
		}))
		c = dial(t, s.path)
		c.send(t, smallRequest)
		<-entered
		s.stop()
		if err := s.wait(); err == nil || !strings.Contains(err.Error(), "1 calls cut off") {
			t.Errorf("Serve: %v", err)
		}
		c.expectClosed(t)
	})
}

// TestDrainAfterHangUp: a caller hangs up while its call is under way, and the call
// ends in time. Nothing was cut off then, though the connection went before it.
func TestDrainAfterHangUp(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		g := newGate()
		s := serve(t, Config{}, g)
		c := dial(t, s.path)
		c.send(t, smallRequest)
		<-g.entered
		s.mu.Lock()
		conns := slices.Collect(maps.Keys(s.conns))
		s.mu.Unlock()
		for _, c := range conns {
			s.forget(c) // as when the caller has hung up
		}
		s.stop()
		eventually(t, "the server drains", s.draining.Load)
		close(g.release)
		if err := s.wait(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestCloseIdle(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, Config{}, g)
	busy, idle := dial(t, s.path), dial(t, s.path)
	busy.send(t, smallRequest)
	<-g.entered
	eventually(t, "both are known", func() bool { return s.Stats().Connections == 2 })
	s.CloseIdle()
	idle.expectClosed(t)
	close(g.release)
	busy.receive(t).expectOK(t)
	busy.call(t).expectOK(t)
}

func TestServeReturnsWhenTheListenerBreaks(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	s.Close()
	if err := s.wait(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}
