package socket

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// Users of no system. A test that needs several runs as root, who may connect
// as any of them.
const (
	alice = 70001 + iota
	bob
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
	s := serve(t, Config{Limits: Limits{Connections: 2, ConnectionsPerUID: 2}}, ok)
	first, second := dial(t, s.path), dial(t, s.path)
	first.call(t).expectOK(t)
	second.call(t).expectOK(t)
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
	first.Close()
	eventually(t, "a free place", func() bool { return s.Stats().Connections == 1 })
	dial(t, s.path).call(t).expectOK(t)
	second.call(t).expectOK(t)
}

func TestLimitOnFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		connections, perUID int
		files               uint64
		want, wantPerUID    int // 0: refused
	}{
		{4096, 2048, 1 << 20, 4096, 2048},
		{4096, 2048, 4096 + 384, 4096, 2048},
		{4096, 2048, 4096 + 383, 4095, 2047},
		{4096, 100, 1024, 640, 100},
		{4096, 4096, 1024, 640, 320},
		{4096, 2048, 448, 64, 32},
		{4096, 2048, 447, 0, 0},
		{2, 1, 386, 2, 1},
		{2, 1, 385, 0, 0},
	} {
		got, err := Limits{Connections: tt.connections, ConnectionsPerUID: tt.perUID}.fit(tt.files)
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

func TestAccounts(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 3, ConnectionsPerUID: 2, Calls: 3, CallsPerUID: 2})
	connect := func(uid uint32, want admission) *account {
		t.Helper()
		acct, got := a.connect(uid)
		if got != want {
			t.Errorf("connection of %d: %d, want %d", uid, got, want)
		}
		return acct
	}
	alices := connect(alice, admitted)
	connect(alice, admitted)
	connect(alice, refused)
	bobs := connect(bob, admitted)
	connect(bob, refused) // the total is reached

	begin := func(acct *account, want bool) {
		t.Helper()
		if got := a.begin(acct); got != want {
			t.Errorf("call begins: %t, want %t", got, want)
		}
	}
	begin(alices, true)
	begin(alices, true)
	begin(alices, false)
	begin(bobs, true)
	begin(bobs, false) // the total is reached
	a.end(alices)
	begin(bobs, true)

	a.end(alices)
	a.end(bobs)
	a.end(bobs)
	for _, was := range []admission{admitted, admitted, refused} {
		a.disconnect(alice, alices, was)
	}
	for _, was := range []admission{admitted, refused} {
		a.disconnect(bob, bobs, was)
	}
	if len(a.byUID) != 0 || a.conns != 0 || a.refusing != 0 || a.calls.Load() != 0 {
		t.Errorf("left over: %+v", a)
	}
}

func TestRestingAccountsAreForgotten(t *testing.T) {
	t.Parallel()
	a := newAccounts(Limits{Connections: 1 << 20, ConnectionsPerUID: 1, Calls: 1, CallsPerUID: 1, RatePerUID: 1e9, BurstPerUID: 1})
	for uid := range uint32(3 * maxResting) {
		acct, _ := a.connect(uid)
		a.begin(acct)
		a.end(acct)
		a.disconnect(uid, acct, admitted)
	}
	if len(a.byUID) > maxResting {
		t.Errorf("%d accounts kept", len(a.byUID))
	}
}

func TestLimitPathDoesNotAllocate(t *testing.T) {
	a := newAccounts(Limits{Connections: 1, ConnectionsPerUID: 1, Calls: 1, CallsPerUID: 1, RatePerUID: 1e9, BurstPerUID: 1e9})
	acct, _ := a.connect(alice)
	if n := testing.AllocsPerRun(100, func() {
		if a.begin(acct) {
			a.end(acct)
		}
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}
