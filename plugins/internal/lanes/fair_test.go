package lanes

import (
	"testing"
	"time"

	"cmkd/plugins/internal/stream"
)

var (
	cheapRow = &stream.Row{ID: 13, Name: "Sign"}
	epoch    = time.Unix(1_000_000, 0)
)

// add adds calls of a caller and class, with ids from first on.
func add(q *fairQueue, caller uint32, class byte, first uint64, n int) {
	for i := range n {
		q.push(job{row: cheapRow, id: first + uint64(i), flow: stream.Flow{Caller: caller, Class: class}})
	}
}

// serve takes n calls one after the other, which take what their class says, and
// counts them by caller and class. Calls of a flow must come in order.
func serve(t *testing.T, q *fairQueue, n int, takes map[byte]time.Duration) map[stream.Flow]int {
	t.Helper()
	served, last, now := map[stream.Flow]int{}, map[stream.Flow]uint64{}, epoch
	for range n {
		j, ok := q.pop()
		if !ok {
			break
		}
		if j.id <= last[j.flow] {
			t.Errorf("call %d of %v came after %d", j.id, j.flow, last[j.flow])
		}
		last[j.flow] = j.id
		served[j.flow]++
		now = now.Add(takes[j.flow.Class])
		q.done(j, now, takes[j.flow.Class])
	}
	return served
}

func TestFairQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	q := newFairQueue(1, 0)
	add(q, 1000, 7, 1, 500)
	got := serve(t, q, 1000, map[byte]time.Duration{7: time.Millisecond})
	if got[stream.Flow{Caller: 1000, Class: 7}] != 500 || len(q.waiting) != 0 {
		t.Errorf("served %v, %d flows wait", got, len(q.waiting))
	}
	if _, ok := q.pop(); ok {
		t.Error("an empty queue gives a call")
	}
}

// TestFairQueueShares: what counts is the time that calls take, not how many of
// them wait.
func TestFairQueueShares(t *testing.T) {
	t.Parallel()
	const cheap, dear = 7, 6
	takes := map[byte]time.Duration{cheap: 50 * time.Microsecond, dear: 5 * time.Millisecond}
	for _, c := range []struct {
		name string
		fill func(q *fairQueue)
		a, b stream.Flow
		// a gets about so many times the calls of b.
		ratio float64
	}{
		{"two users, one with 100 times the calls", func(q *fairQueue) {
			add(q, 1, cheap, 1, 20000)
			add(q, 2, cheap, 1, 200)
		}, stream.Flow{Caller: 1, Class: cheap}, stream.Flow{Caller: 2, Class: cheap}, 1},
		{"a user with dear calls", func(q *fairQueue) {
			add(q, 1, dear, 1, 20000)
			add(q, 2, cheap, 1, 20000)
		}, stream.Flow{Caller: 2, Class: cheap}, stream.Flow{Caller: 1, Class: dear}, 100},
		{"dear and cheap calls of one user", func(q *fairQueue) {
			add(q, 1, dear, 1, 20000)
			add(q, 1, cheap, 1, 20000)
		}, stream.Flow{Caller: 1, Class: cheap}, stream.Flow{Caller: 1, Class: dear}, 100},
		{"a user with many kinds of calls", func(q *fairQueue) {
			for class := byte(10); class < 20; class++ {
				takes[class] = takes[cheap]
				add(q, 1, class, 1, 20000)
			}
			add(q, 2, cheap, 1, 20000)
		}, stream.Flow{Caller: 2, Class: cheap}, stream.Flow{Caller: 1, Class: 10}, 10},
	} {
		q := newFairQueue(0, 0)
		c.fill(q)
		serve(t, q, 100, takes) // until the costs are known
		for _, f := range q.waiting {
			f.tag = q.now
		}
		n := 300
		if c.ratio == 100 {
			n = 15000
		}
		got := serve(t, q, n, takes)
		ratio := float64(got[c.a]) / float64(got[c.b])
		if ratio < c.ratio/1.5 || ratio > c.ratio*1.5 {
			t.Errorf("%s: %d calls of %v and %d of %v: %.1f, want about %.0f", c.name, got[c.a], c.a, got[c.b], c.b, ratio, c.ratio)
		}
	}
}

// TestFairQueueLeavesRoom: dear calls do not hold every worker while cheap ones
// are made, and do if none are.
func TestFairQueueLeavesRoom(t *testing.T) {
	t.Parallel()
	const cheap, dear, workers, room = 7, 6, 8, 2
	takes := map[byte]time.Duration{cheap: 50 * time.Microsecond, dear: 5 * time.Millisecond}
	q := newFairQueue(room, 0)
	running := func() (n int) {
		var taken []job
		for range workers {
			if j, ok := q.pop(); ok {
				taken = append(taken, j)
			}
		}
		for _, j := range taken {
			q.done(j, epoch.Add(time.Hour), takes[j.flow.Class])
		}
		return len(taken)
	}
	add(q, 1, dear, 1, 200)
	serve(t, q, 100, takes)
	if n := running(); n != workers {
		t.Errorf("%d dear calls run alone, not %d", n, workers)
	}
	add(q, 2, cheap, 1, 100)
	serve(t, q, 150, takes)
	add(q, 1, dear, 1000, 200)
	add(q, 2, cheap, 1000, 1)
	j, _ := q.pop()
	if j.flow.Class == dear { // whoever is due first
		q.done(j, epoch.Add(time.Second), takes[dear])
		j, _ = q.pop()
	}
	q.done(j, epoch.Add(2*time.Second), takes[cheap])
	dears := 0
	for range workers {
		if _, ok := q.pop(); ok {
			dears++
		}
	}
	if dears != room {
		t.Errorf("%d dear calls run beside cheap ones, not %d", dears, room)
	}
}

// TestFairQueueInfo: questions of monitoring cost so little that beside them every
// call would be dear, and slow tokens would be left idle.
func TestFairQueueInfo(t *testing.T) {
	t.Parallel()
	const sign, workers = 6, 8
	q := newFairQueue(2, 0)
	add(q, 1, sign, 1, 200)
	serve(t, q, 100, map[byte]time.Duration{sign: 5 * time.Millisecond})
	q.push(job{row: stream.Info.Row, flow: stream.Flow{Caller: stream.NoCaller}})
	for asked := false; !asked; {
		j, ok := q.pop()
		if !ok {
			t.Fatal("the question is not asked")
		}
		asked = j.row == stream.Info.Row
		q.done(j, epoch.Add(time.Hour), 10*time.Microsecond)
	}
	add(q, 1, sign, 1000, workers)
	for n := range workers {
		if _, ok := q.pop(); !ok {
			t.Fatalf("%d calls run after a question, not %d", n, workers)
		}
	}
}

// TestFairQueueShareOfSlots: one caller does not hold every slot of the slow
// lane; the daemon itself may.
func TestFairQueueShareOfSlots(t *testing.T) {
	t.Parallel()
	for caller, want := range map[uint32]int{1000: 3, stream.NoCaller: 4} {
		q := newFairQueue(0, 3)
		add(q, caller, 6, 1, 10)
		n := 0
		for range 4 {
			if _, ok := q.pop(); ok {
				n++
			}
		}
		if n != want {
			t.Errorf("caller %d runs %d calls, want %d", caller, n, want)
		}
		add(q, 2, 6, 1, 1)
		if _, ok := q.pop(); !ok {
			t.Errorf("another caller's call does not run beside those of %d", caller)
		}
	}
}

// TestFairQueueForgets: a thousand callers that come and go leave nothing behind.
func TestFairQueueForgets(t *testing.T) {
	t.Parallel()
	q := newFairQueue(1, 0)
	takes := map[byte]time.Duration{7: time.Millisecond}
	for caller := range uint32(100_000) {
		add(q, caller, 7, 1, 1)
		serve(t, q, 1, takes)
	}
	if len(q.flows) > 2*keptFlows || len(q.users) > 2*keptFlows {
		t.Errorf("%d flows and %d users are kept", len(q.flows), len(q.users))
	}
}
