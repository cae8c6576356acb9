package socket

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Users of no system. A test that needs several runs as root, who may connect
// as any of them.
const (
	alice = 70001 + iota
	bob
	carol
	dave
)

func TestPeer(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{Mode: 0o666}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, found := PeerFrom(r.Context())
		if !found {
			t.Error("no peer")
		}
		json.NewEncoder(w).Encode(peer)
	}))
	peerOf := func(c *client) (p Peer) {
		if err := json.Unmarshal([]byte(c.call(t).body), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := peerOf(dial(t, s.path)); p.UID != uint32(os.Geteuid()) || p.GID != uint32(os.Getegid()) || p.PID != int32(os.Getpid()) {
		t.Errorf("own connection: %+v", p)
	}
	if os.Geteuid() != 0 {
		return
	}
	many := make([]uint32, 300)
	for i := range many {
		many[i] = uint32(80000 + i)
	}
	for _, groups := range [][]uint32{nil, {5}, many} {
		p := peerOf(dialAs(t, s.path, alice, bob, groups))
		if p.UID != alice || p.GID != bob || !slices.Equal(p.Groups, groups) {
			t.Errorf("peer with %d groups: %+v", len(groups), p)
		}
	}
	if _, found := PeerFrom(t.Context()); found {
		t.Error("a peer from nowhere")
	}
}

func TestCallLimit(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, smallRequest string) {
		g := newGate()
		s := serve(t, Config{Limits: Limits{Calls: 4, CallsPerUID: 2}}, g)
		var busy []*client
		for range 2 {
			c := dial(t, s.path)
			c.send(t, smallRequest)
			<-g.entered
			busy = append(busy, c)
		}
		c := dial(t, s.path)
		for range 3 {
			c.call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
		}
		if st := s.Stats(); st.Calls != 2 || st.Connections != 3 || st.Refused != 3 {
			t.Errorf("stats %+v", st)
		}
		close(g.release)
		for _, b := range busy {
			b.receive(t).expectOK(t)
		}
		eventually(t, "calls ended", func() bool { return s.Stats().Calls == 0 })
		c.call(t).expectOK(t)
	})
}

func TestOneUserCannotStarveOthers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: TestAccounts alone shows this")
		return
	}
	g := newGate()
	s := serve(t, Config{Mode: 0o666, Limits: Limits{Connections: 6, ConnectionsPerUID: 3, Calls: 4, CallsPerUID: 2}}, g)
	for range 2 {
		dialAs(t, s.path, alice, alice, nil).send(t, smallRequest)
		<-g.entered
	}
	dialAs(t, s.path, alice, alice, nil).call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
	// Alice has all her connections; one more is told so and closed.
	c := dialAs(t, s.path, alice, alice, nil)
	c.call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
	c.expectClosed(t)

	c = dialAs(t, s.path, bob, bob, nil)
	c.send(t, smallRequest)
	<-g.entered
	close(g.release)
	c.receive(t).expectOK(t)
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := serve(t, Config{Limits: Limits{Connections: 2, ConnectionsPerUID: 2}}, g)
	first, second := dial(t, s.path), dial(t, s.path)
	first.send(t, smallRequest) // busy connections do not give way
	second.send(t, smallRequest)
	<-g.entered
	<-g.entered
	var waiting []*client
	for range maxRefusingPerUID {
		waiting = append(waiting, dial(t, s.path))
	}
	eventually(t, "refusals", func() bool { return s.Stats().Refused == maxRefusingPerUID })
	dial(t, s.path).expectClosed(t)
	for _, c := range waiting {
		c.call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
		c.expectClosed(t)
	}
	close(g.release)
	first.receive(t).expectOK(t)
	second.receive(t).expectOK(t)
	first.Close()
	eventually(t, "a free place", func() bool { return s.Stats().Connections == 1 })
	dial(t, s.path).call(t).expectOK(t)
	second.call(t).expectOK(t)
}

// TestIdleConnectionsGiveWay: what a user has open and does not use keeps out
// neither others nor new connections of their own.
func TestIdleConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 5, ConnectionsPerUID: 3, Reserve: 1, Calls: 9, CallsPerUID: 9})
	connect := func(c *conn, want admission, wantEvicted *conn) {
		t.Helper()
		if got, evicted := a.connect(c); got != want || evicted != wantEvicted {
			t.Errorf("%d, evicted %p; want %d, evicted %p", got, evicted, want, wantEvicted)
		}
	}
	age := func(c ...*conn) {
		for _, c := range c {
			c.since = c.since.Add(-minIdle)
		}
	}
	var alices []*conn
	for range 3 {
		alices = append(alices, testConn(alice))
		connect(alices[len(alices)-1], admitted, nil)
	}
	connect(testConn(alice), refused, nil) // all of hers are about to make a call
	age(alices...)
	a.acquire(alices[0])
	a.rest(alices[0])
	a.acquire(alices[1]) // busy
	connect(testConn(alice), admitted, alices[2])

	bobs := []*conn{testConn(bob), testConn(bob)}
	for _, c := range bobs {
		connect(c, admitted, nil)
	}
	age(alices...)
	age(bobs...)
	connect(testConn(bob), admitted, alices[0]) // the total is reached: alice has the most
	connect(testConn(carol), admitted, bobs[0]) // bob has the most now
	connect(testConn(carol), admitted, bobs[1])
	connect(testConn(carol), refused, nil) // what is left is busy or young
	admin := testConn(0)
	admin.privileged = true
	connect(admin, admitted, nil) // the reserve
	admin = testConn(0)
	admin.privileged = true
	if got, evicted := a.connect(admin); got != admitted || evicted == nil {
		t.Errorf("an admin beyond the reserve: %d, evicted %p", got, evicted)
	}
	if st := a.stats(); st.Connections != 6 || st.Evicted != 5 {
		t.Errorf("%+v", st)
	}
}

func TestLimitOnFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		connections, perUID int
		files               uint64
		want, wantPerUID    int // 0: refused
	}{
		{4096, 2048, 1 << 20, 4096, 2048},
		{4096, 2048, 4096 + 400, 4096, 2048},
		{4096, 2048, 4096 + 399, 4095, 2047},
		{4096, 100, 1024, 624, 100},
		{4096, 4096, 1024, 624, 312},
		{4096, 2048, 464, 64, 32},
		{4096, 2048, 463, 0, 0},
		{2, 1, 402, 2, 1},
		{2, 1, 401, 0, 0},
	} {
		got, err := Limits{Connections: tt.connections, ConnectionsPerUID: tt.perUID, Reserve: 16}.fit(tt.files)
		if tt.want == 0 {
			if err == nil || !strings.Contains(err.Error(), "RLIMIT_NOFILE") {
				t.Errorf("%+v: %v", tt, err)
			}
			continue
		}
		if err != nil || got.Connections != tt.want || got.ConnectionsPerUID != tt.wantPerUID {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}

func TestRateOutlivesConnections(t *testing.T) {
	t.Parallel()
	s := serve(t, Config{Limits: Limits{RatePerUID: 1e-6, BurstPerUID: 2}}, ok)
	for range 2 {
		c := dial(t, s.path)
		c.call(t).expectOK(t)
		c.Close()
		eventually(t, "the connection is gone", func() bool { return s.Stats().Connections == 0 })
	}
	dial(t, s.path).call(t).expectRefusal(t, http.StatusBadRequest, "ThrottlingException")
}

// testConn is a connection of uid that has no socket.
func testConn(uid uint32) *conn {
	return &conn{peer: &Peer{UID: uid}, closed: make(chan struct{}), granted: make(chan bool, 1)}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 3, ConnectionsPerUID: 2, Calls: 3, CallsPerUID: 2})
	var all []*conn
	connect := func(uid uint32, want admission) *conn {
		t.Helper()
		c := testConn(uid)
		got, evicted := a.connect(c)
		if got != want || evicted != nil {
			t.Errorf("connection of %d: %d, evicted %v, want %d", uid, got, evicted, want)
		}
		all = append(all, c)
		return c
	}
	alices := connect(alice, admitted)
	connect(alice, admitted)
	connect(alice, refused)
	bobs := connect(bob, admitted)
	connect(bob, refused) // the total is reached

	begin := func(c *conn, want bool) {
		t.Helper()
		if got := a.begin(c); got != want {
			t.Errorf("call begins: %t, want %t", got, want)
		}
	}
	begin(alices, true)
	begin(alices, true)
	begin(alices, false)
	begin(bobs, true)
	begin(bobs, false) // the total is reached
	a.end(alices.account)
	begin(bobs, true)

	a.end(alices.account)
	a.end(bobs.account)
	a.end(bobs.account)
	for _, c := range all {
		a.disconnect(c)
		a.disconnect(c)
	}
	if len(a.byUID) != 0 || a.conns != 0 || a.refusing != 0 || a.calls.Load() != 0 {
		t.Errorf("left over: %+v", a)
	}
}

func TestRestingAccountsAreForgotten(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 1 << 20, ConnectionsPerUID: 1, Calls: 1, CallsPerUID: 1, RatePerUID: 1e9, BurstPerUID: 1})
	for uid := range uint32(3 * maxResting) {
		c := testConn(uid)
		a.connect(c)
		a.acquire(c)
		a.begin(c)
		a.end(c.account)
		a.release(c)
		a.disconnect(c)
		a.review(time.Now().Add(2 * linger))
	}
	if len(a.byUID) > maxResting || len(a.active) > 0 {
		t.Errorf("%d accounts kept, %d active", len(a.byUID), len(a.active))
	}
}

func TestLimitPathDoesNotAllocate(t *testing.T) {
	a := newAccounts(Limits{Connections: 1, ConnectionsPerUID: 1, Calls: 1, CallsPerUID: 1, RatePerUID: 1e9, BurstPerUID: 1e9})
	c := testConn(alice)
	a.connect(c)
	if n := testing.AllocsPerRun(100, func() {
		a.acquire(c)
		if a.begin(c) {
			a.end(c.account)
		}
		a.rest(c)
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}
