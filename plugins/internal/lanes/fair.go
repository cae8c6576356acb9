package lanes

import (
	"time"

	"cmkd/plugins/internal/stream"
)

const (
	// firstCost is what a call is taken to cost before one like it was made.
	firstCost = 100 * time.Microsecond
	// costWeight is the weight of the past in the average cost of a call.
	costWeight = 16
	// dearFactor: calls that take so many times as long as others that are made
	// at the time are dear: they may not hold every worker.
	dearFactor = 4
	// cheapMemory is how long a cheap call leaves room for the next one.
	cheapMemory = 100 * time.Millisecond
	// keptFlows is how many flows are remembered, at least.
	keptFlows = 1024
	// keptJobs is the room for calls that such a flow keeps.
	keptJobs = 64
)

// fairQueue holds calls that wait for a worker. Each caller gets the same share
// of the workers' time, whatever its calls cost and however many of them wait,
// and each kind of call of a caller the same share of that: start-time fair
// queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with costs as they are measured.
// Calls of one kind and caller keep their order. The owner's lock guards it.
type fairQueue struct {
	flows map[flowID]*queued
	// waiting are the flows with a call, in no order.
	waiting []*queued
	full    int // flows at which those without a call are forgotten
	users   map[uint32]*user
	costs   map[costID]*cost
	// now is the virtual time: the tag of the flow served last.
	now time.Duration

	// dear is how many calls of dear kinds may run at a time beside cheap ones,
	// and running how many do. share is how many one caller may have running. 0:
	// as many as there are workers.
	dear, running, share int
	cheapest             *cost     // of what was called lately
	cheap                time.Time // when that was
}

// flowID names the calls that keep their order: of one caller and one kind.
type flowID struct {
	caller uint32
	costID
}

// costID names a kind of call: calls of one method and class cost about the same.
type costID struct{ method, class byte }

// cost is what calls of a kind take, as an exponential average.
type cost struct{ average time.Duration }

// user is a caller that has calls here.
type user struct {
	flows   int // with a call that waits
	running int
}

// queued is a flow.
type queued struct {
	id   flowID
	user *user
	cost *cost
	tag  time.Duration // when its next call is due, in virtual time
	jobs []job         // from head on
	head int
}

func newFairQueue(dear, share int) *fairQueue {
	return &fairQueue{
		dear: dear, share: share, full: keptFlows,
		flows: map[flowID]*queued{}, users: map[uint32]*user{}, costs: map[costID]*cost{},
	}
}

// push adds a call.
func (q *fairQueue) push(j job) {
	id := flowID{j.flow.Caller, costID{j.row.ID, j.flow.Class}}
	f := q.flows[id]
	if f == nil {
		f = q.open(id)
	}
	if f.head == len(f.jobs) {
		f.jobs, f.head = f.jobs[:0], 0
		f.tag = max(f.tag, q.now)
		f.user.flows++
		q.waiting = append(q.waiting, f)
	}
	f.jobs = append(f.jobs, j)
}

func (q *fairQueue) open(id flowID) *queued {
	if len(q.flows) >= q.full {
		q.forget()
	}
	u, c := q.users[id.caller], q.costs[id.costID]
	if u == nil {
		u = new(user)
		q.users[id.caller] = u
	}
	if c == nil {
		c = &cost{firstCost}
		q.costs[id.costID] = c
	}
	f := &queued{id: id, user: u, cost: c}
	q.flows[id] = f
	return f
}

// forget drops the flows that have no call, and with them what they owe for
// their last one.
func (q *fairQueue) forget() {
	for id, f := range q.flows {
		if f.head == len(f.jobs) {
			delete(q.flows, id)
		}
	}
	q.full = max(keptFlows, 2*len(q.flows))
	for caller, u := range q.users {
		if u.flows == 0 && u.running == 0 {
			delete(q.users, caller)
		}
	}
	for _, f := range q.flows { // those that stay keep their users
		q.users[f.id.caller] = f.user
	}
}

// pop takes the call that is due first and may run now. The caller gives it back
// to done.
func (q *fairQueue) pop() (job, bool) {
	best := -1
	for i, f := range q.waiting {
		if (best < 0 || f.tag < q.waiting[best].tag) && q.mayRun(f) {
			best = i
		}
	}
	if best < 0 {
		return job{}, false
	}
	f := q.waiting[best]
	q.now = max(q.now, f.tag)
	f.tag += f.cost.average * time.Duration(f.user.flows)
	j := f.jobs[f.head]
	f.jobs[f.head] = job{}
	if f.head++; f.head == len(f.jobs) {
		f.user.flows--
		last := len(q.waiting) - 1
		q.waiting[best], q.waiting[last] = q.waiting[last], nil
		q.waiting = q.waiting[:last]
		if cap(f.jobs) > keptJobs {
			f.jobs, f.head = nil, 0
		}
	}
	j.from, j.dear, j.long = f, q.isDear(f), f.cost.average >= gatherTime
	f.user.running++
	if j.dear {
		q.running++
	}
	return j, true
}

func (q *fairQueue) mayRun(f *queued) bool {
	if q.share > 0 && f.user.running >= q.share && f.id.caller != stream.NoCaller {
		return false
	}
	return q.dear == 0 || q.running < q.dear || !q.isDear(f)
}

// isDear reports whether calls of f take much longer than others that are made
// at the time.
func (q *fairQueue) isDear(f *queued) bool {
	return q.cheapest != nil && f.cost.average >= dearFactor*q.cheapest.average
}

// done notes that a call has ended, at the given time, and how long it took.
func (q *fairQueue) done(j job, at time.Time, took time.Duration) {
	c := j.from.cost
	c.average += (took - c.average) / costWeight
	j.from.user.running--
	if j.dear {
		q.running--
	}
	if j.row == stream.Info.Row {
		return // monitoring asks, the token is not called: next to that, every call is dear
	}
	if q.cheapest == nil || c == q.cheapest || c.average < q.cheapest.average || at.Sub(q.cheap) > cheapMemory {
		q.cheapest, q.cheap = c, at
	}
}
