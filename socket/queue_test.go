package socket

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// begun is a request that asks for a turn.
type begun struct {
	*conn
	granted chan bool
}

func ask(a *accounts, c *conn) begun {
	b := begun{c, make(chan bool, 1)}
	go func() { _, ok := a.acquire(c); b.granted <- ok }()
	return b
}

// state is whether c has a turn or waits for one.
func (a *accounts) state(c *conn) (turn, waits bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return c.turn, c.in == &c.account.waiting
}

// TestTurns: alone, a user has as many turns as they like; beside another, a
// window, behind which their own requests wait, the first to come first.
func TestTurns(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 1 << 20, ConnectionsPerUID: 1 << 20, Calls: 1 << 20, CallsPerUID: 1 << 20})
	request := func(uid uint32) begun {
		t.Helper()
		c := testConn(uid)
		if was, _ := a.connect(c); was != admitted {
			t.Fatal("not admitted")
		}
		b := ask(a, c)
		eventually(t, "a turn or a place", func() bool { turn, waits := a.state(c); return turn || waits })
		return b
	}
	expect := func(what string, b begun, want bool) {
		t.Helper()
		if turn, _ := a.state(b.conn); turn != want {
			t.Errorf("%s: turn %t, want %t", what, turn, want)
		}
	}
	procs := runtime.GOMAXPROCS(0)
	narrow, wide := narrowTurns*procs/2, wideTurns*procs/2

	var alices []begun
	for range 2 * wide {
		alices = append(alices, request(alice))
		expect("alice alone", alices[len(alices)-1], true)
	}
	bobs := []begun{request(bob)}
	expect("bob", bobs[0], true)
	waiting := []begun{request(alice), request(alice), request(alice)}
	expect("alice beside bob", waiting[0], false)
	for _, b := range alices[narrow:] { // what she has beyond her window
		a.release(b.conn)
	}
	expect("a full window", waiting[0], false)

	a.disconnect(waiting[1].conn) // the client leaves
	if <-waiting[1].granted {
		t.Error("a turn for a connection that is closed")
	}
	a.release(alices[0].conn)
	expect("the first in the queue", waiting[0], true)
	expect("the last in the queue", waiting[2], false)
	a.release(alices[1].conn)
	expect("the last in the queue", waiting[2], true)

	// Where both make many calls at a time, both have wide windows.
	alices = append(alices, waiting...)
	waiting = nil
	for range wide {
		bobs = append(bobs, request(bob))
		waiting = append(waiting, request(alice))
	}
	a.mu.Lock()
	a.review(time.Now())
	a.mu.Unlock()
	a.release(alices[2].conn)
	a.mu.Lock()
	running := waiting[0].account.running
	a.mu.Unlock()
	if running != wide {
		t.Errorf("alice has %d turns beside a busy bob, want %d", running, wide)
	}
	st := a.stats()
	if w := st.Waits[Users]; st.Active != 2 || w.Waiting == 0 || w.Count == 0 || w.Buckets[len(w.Buckets)-1] != w.Count {
		t.Errorf("%+v", st)
	}
	for _, bs := range [][]begun{alices, bobs, waiting} {
		for _, b := range bs {
			a.disconnect(b.conn)
		}
	}
	a.review(time.Now().Add(linger))
	if len(a.byUID) != 0 || len(a.active) != 0 || a.stats().Waits[Users].Waiting != 0 {
		t.Errorf("left over: %+v", a.stats())
	}
}

// TestThrottledWindow: whoever is throttled without end has a part of the turns.
func TestThrottledWindow(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 9, ConnectionsPerUID: 9, Calls: 9, CallsPerUID: 9})
	alices, bobs := testConn(alice), testConn(bob)
	for _, c := range []*conn{alices, bobs} {
		a.connect(c)
		a.acquire(c)
	}
	before := a.window(alices.account)
	for range 2 * throttleBurst {
		alices.throttle()
	}
	a.review(time.Now())
	if got := a.window(alices.account); got != before/slowedShare {
		t.Errorf("window %d, was %d", got, before)
	}
	if got := a.window(bobs.account); got != before {
		t.Errorf("bob's window %d, was %d", got, before)
	}
	if alices.pause <= 0 || alices.pause > maxPause {
		t.Errorf("pause %v", alices.pause)
	}
	another := testConn(alice)
	a.connect(another)
	if another.pause <= 0 {
		t.Error("a new connection brings a new allowance")
	}
}

// TestOthersWaitBehindThemselves: a real server, whose handler is blocked by all
// the calls that one user may have under way.
func TestOthersWaitBehindThemselves(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		if os.Geteuid() != 0 {
			t.Log("not root: TestTurns alone shows this")
			return
		}
		g := newGate()
		s := serve(t, Config{Mode: 0o666}, g)
		entered := atomic.Int64{}
		enter := func(c *client) *client {
			t.Helper()
			c.send(t, smallRequest)
			<-g.entered
			entered.Add(1)
			return c
		}
		users := []*client{enter(dialAs(t, s.path, bob, bob, nil))}
		for range narrowTurns * runtime.GOMAXPROCS(0) / 2 {
			users = append(users, enter(dialAs(t, s.path, alice, alice, nil)))
		}
		var queued []*client
		for range 3 {
			c := dialAs(t, s.path, alice, alice, nil)
			c.send(t, smallRequest)
			queued = append(queued, c)
		}
		eventually(t, "a queue", func() bool { return s.Stats().Waits[Users].Waiting == len(queued) })
		users = append(users, enter(dialAs(t, s.path, bob, bob, nil)), enter(dial(t, s.path)))

		queued[1].Close() // its call must not be made
		close(g.release)
		for _, c := range append(users, queued[0], queued[2]) {
			c.receive(t).expectOK(t)
		}
		eventually(t, "the end of the queue", func() bool { return s.Stats().Waits[Users].Waiting == 0 })
		if n := len(g.entered); n != 2 {
			t.Errorf("%d calls of those that waited were made, want 2", n)
		}
	})
}

// TestSlowClientsGiveTheirTurnBack: while a client is slow with its body, or
// does not take its answer, another has the turn.
func TestSlowClientsGiveTheirTurnBack(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		large := make([]byte, 4<<20) // more than a socket's buffers hold
		var handled atomic.Bool      // the call that the large answer is for
		s := serve(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if string(body) == "large" {
				handled.Store(true)
				w.Write(large)
			} else if err == nil {
				w.Write(body)
			}
		}))
		running := func() (n int) {
			s.accounts.mu.Lock()
			defer s.accounts.mu.Unlock()
			for _, acct := range s.accounts.byUID {
				n += acct.running
			}
			return n
		}
		slow := dial(t, s.path)
		slow.send(t, headOf(smallRequest)+"Content-Length: 6\r\n\r\nab")
		eventually(t, "the call under way", func() bool { return s.Stats().Calls == 1 })
		eventually(t, "the turn back", func() bool { return running() == 0 })
		slow.send(t, "c")
		slow.send(t, "def")
		if a := slow.receive(t); a.body != "abcdef" {
			t.Errorf("answered %q", a.body)
		}
		eventually(t, "the turn back", func() bool { return running() == 0 })

		deaf := dial(t, s.path)
		deaf.send(t, headOf(smallRequest)+"Content-Length: 5\r\n\r\nlarge")
		eventually(t, "the call under way", handled.Load)
		eventually(t, "the turn back", func() bool { return running() == 0 })
		if a := deaf.receive(t); len(a.body) != len(large) {
			t.Errorf("answered %d bytes", len(a.body))
		}
	})
}

// TestWatchedCallsKeepTheirTurn: while a call runs, net/http watches for the end of
// the stream, of a call without a body from before its handler has begun. That must
// not look like a client who is slow to send the rest.
func TestWatchedCallsKeepTheirTurn(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{}, ok)
	c, client := unserved(t, s)
	if _, err := unix.Write(client, []byte("GET")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	connState(c, http.StateActive)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) // nothing comes
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if turn, _ := s.accounts.state(c); !turn {
		t.Error("a call that is being served has lost its turn")
	}
}

// unserved returns a connection to s that nobody serves, and its client's descriptor.
func unserved(t *testing.T, s *testServer) (c *conn, client int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	f := os.NewFile(uintptr(fds[0]), "")
	raw, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if c, err = s.newConn(raw.(*net.UnixConn), &Peer{UID: alice}); err != nil {
		t.Fatal(err)
	}
	s.accounts.connect(c)
	s.remember(c)
	t.Cleanup(func() { c.Close() })
	return c, fds[1]
}

// TestThrottledConnectionsAreSlowedDown: a user past a limit is answered at once
// at first, and then at a rate, however many connections there are.
func TestThrottledConnectionsAreSlowedDown(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{Limits: Limits{RatePerUID: 1e-6, BurstPerUID: 1}}, ok)
	const connections = 50
	var answered atomic.Int64
	var calling sync.WaitGroup
	began := time.Now()
	var all []*client
	for range connections {
		c := dial(t, s.path)
		c.SetDeadline(time.Time{})
		all = append(all, c)
		calling.Go(func() {
			for {
				if _, err := io.WriteString(c, smallRequest); err != nil {
					return
				}
				if _, err := c.tryReceive(); err != nil {
					return
				}
				answered.Add(1)
			}
		})
	}
	time.Sleep(1500 * time.Millisecond) // what is measured is a rate
	eventually(t, "the burst", func() bool { return answered.Load() >= throttleBurst })
	for _, c := range all {
		c.SetDeadline(time.Now())
	}
	calling.Wait()
	// A goroutine that is held up between reading the clock and the limiter's lock sets that back, which
	// gives what has been given already. Without a pace there would be thousands.
	most := throttleBurst + int64(time.Since(began).Seconds()*throttleRate) + 4*connections
	if n := answered.Load(); n < throttleBurst || n > most {
		t.Errorf("%d answers, want %d to %d", n, throttleBurst, most)
	}
}

// TestReserve: connections that others hold, idle or busy, do not lock out those
// who look after the daemon.
func TestReserve(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: TestIdleConnectionsGiveWay alone shows this")
		return
	}
	g := newGate()
	s := serve(t, Config{
		Mode: 0o666, Limits: Limits{Connections: 8, ConnectionsPerUID: 4, Calls: 8, CallsPerUID: 4, Reserve: 1},
		Privileged: func(p Peer) bool { return p.UID == 0 || p.UID == carol },
	}, g)
	for _, uid := range []uint32{alice, bob} {
		for range 4 {
			dialAs(t, s.path, uid, uid, nil).send(t, smallRequest)
			<-g.entered
		}
	}
	dialAs(t, s.path, dave, dave, nil).call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
	admin := dialAs(t, s.path, carol, carol, nil)
	admin.send(t, smallRequest)
	<-g.entered
	close(g.release)
	admin.receive(t).expectOK(t)
	// The users' connections are idle now, all of them, and root takes their place.
	eventually(t, "idle connections", func() bool { return s.Stats().Calls == 0 })
	for range 3 {
		dial(t, s.path).call(t).expectOK(t)
	}
}
