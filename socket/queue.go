package socket

import (
	"math"
	"runtime"
	"time"
)

// Requests take turns. A request waits for its turn once its first bytes are
// there, before it is parsed, and gives the turn back when its answer leaves,
// or while its client is slow to send the rest. So a turn stands for all the
// work that a request makes.
//
// Each uid has a window of turns of its own, which nobody else can fill. While
// nobody else is active it has no end; as soon as somebody is, it is narrow: see
// [accounts.window]. So whoever floods waits behind themselves: of their work no
// more than their window competes with others for the processors, the token and
// the disk. docs/decisions/0009-fair-scheduling.md has the measurements.
const (
	// narrowTurns and wideTurns are the turns, for each processor, that the
	// active users share: narrowTurns as long as one of them makes few calls at a
	// time, whose time to answer grows with the calls beside them, and up to
	// wideTurns where all make many, since more calls at a time make fewer and
	// larger writes of the audit trail.
	narrowTurns = 16
	wideTurns   = 64
	// ahead is how many times as many turns as the least busy of the others one
	// may have.
	ahead = 4
	// slowedShare is what part of its window a user has who is throttled so much
	// that its connections pause.
	slowedShare = 4
	// privilegedTurns is the least window of a privileged user, however many
	// users are active.
	privilegedTurns = 4
	// linger is how long a user counts as active after the end of a call.
	linger = 100 * time.Millisecond
	// reviewInterval is how often it is found out who is active, and how busy.
	reviewInterval = 5 * time.Millisecond
)

// acquire waits for the turn of a request on c, and reports whether it had to.
// ok is false if c has been closed. If c has the turn already, it keeps it.
func (a *accounts) acquire(c *conn) (waited, ok bool) {
	a.mu.Lock()
	if c.gone || c.turn {
		defer a.mu.Unlock()
		return false, c.turn
	}
	acct := c.account
	acct.idle.remove(c)
	now := time.Now()
	a.activate(acct, now)
	if acct.waiting.first == nil && acct.running < a.window(acct) {
		acct.running++
		c.turn = true
		a.mu.Unlock()
		return false, true
	}
	acct.waiting.push(c)
	c.since = now
	a.waits[c.class()].Waiting++
	a.mu.Unlock()
	return true, <-c.granted
}

// release gives the turn of c back, if it has one.
func (a *accounts) release(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.giveBack(c)
}

// giveBack is release for who holds a.mu.
func (a *accounts) giveBack(c *conn) {
	if !c.turn {
		return
	}
	c.turn = false
	acct := c.account
	acct.running--
	acct.last = time.Now()
	if len(a.active) > 1 && acct.last.Sub(a.reviewed) >= reviewInterval {
		a.review(acct.last)
	}
	for acct.waiting.first != nil && acct.running < a.window(acct) {
		next := acct.waiting.first
		acct.waiting.remove(next)
		a.waits[next.class()].end(acct.last.Sub(next.since))
		acct.running++
		next.turn = true
		next.granted <- true
	}
}

// rest notes that c is between two requests.
func (a *accounts) rest(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.giveBack(c)
	if !c.gone && c.in == nil {
		c.since = time.Now()
		c.account.idle.push(c)
	}
}

// leave takes c, which is being closed, out of everything. The caller holds
// a.mu.
func (a *accounts) leave(c *conn) {
	c.gone = true
	a.giveBack(c)
	switch c.in {
	case &c.account.waiting:
		c.in.remove(c)
		a.waits[c.class()].end(time.Since(c.since))
		c.granted <- false
	case &c.account.idle:
		c.in.remove(c)
	}
}

// window is how many turns acct may have now. The caller holds a.mu.
func (a *accounts) window(acct *account) int {
	n := len(a.active)
	if n <= 1 {
		return math.MaxInt
	}
	others := a.least
	if a.leastBusy == acct {
		others = a.secondLeast
	}
	procs := runtime.GOMAXPROCS(0)
	least := 1
	if acct.privileged {
		least = privilegedTurns
	}
	turns := max(narrowTurns*procs/n, min(wideTurns*procs/n, ahead*others))
	if acct.slowed {
		turns /= slowedShare
	}
	return max(least, turns)
}

// activate makes acct one of those who share the turns. The caller holds a.mu.
func (a *accounts) activate(acct *account, now time.Time) {
	if acct.active {
		return
	}
	acct.active, acct.last = true, now
	a.active = append(a.active, acct)
	a.review(now)
}

// review finds out who is still active, and how busy the least busy are. The
// caller holds a.mu.
func (a *accounts) review(now time.Time) {
	a.reviewed = now
	a.leastBusy, a.least, a.secondLeast = nil, math.MaxInt, math.MaxInt
	still := a.active[:0]
	for _, acct := range a.active {
		busy := acct.running + acct.waiting.length
		if busy == 0 && now.Sub(acct.last) >= linger {
			acct.active = false
			a.forgetIfResting(acct)
			continue
		}
		still = append(still, acct)
		acct.slowed = acct.throttles.Tokens() < 0
		if busy < a.least {
			a.leastBusy, a.least, a.secondLeast = acct, busy, a.least
		} else {
			a.secondLeast = min(a.secondLeast, busy)
		}
	}
	clear(a.active[len(still):])
	a.active = still
}
