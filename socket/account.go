package socket

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// accounts counts what is in use, in total and per uid.
type accounts struct {
	limits  Limits
	calls   atomic.Int64 // in flight
	refused atomic.Int64 // calls and connections since the start

	mu       sync.Mutex // guards what follows
	byUID    map[uint32]*account
	conns    int // admitted connections
	refusing int // connections open only to be answered with a refusal
	evicted  int64
	active   []*account // with a call under way, or a short while ago
	reviewed time.Time  // when active was looked through, and found:
	// the least busy of them, how many requests it had, and the next one.
	leastBusy          *account
	least, secondLeast int
	waits              [classes]Waits
}

// account is the share of one uid. It outlives its connections where a rate is
// limited: a new connection must not bring a new allowance.
type account struct {
	uid     uint32
	calls   atomic.Int64
	limiter *rate.Limiter // nil: any rate
	// throttles paces the connections that are answered with
	// ThrottlingException.
	throttles *rate.Limiter

	// accounts.mu guards what follows.
	privileged bool // of a privileged connection
	conns      int
	refusing   int
	running    int       // turns taken
	waiting    connList  // for a turn, the first to come first
	idle       connList  // the longest idle first
	active     bool      // in accounts.active
	last       time.Time // it gave a turn back
	slowed     bool      // its connections pause
}

// Connections accepted only to be refused in words: enough for every client of
// one user's burst to learn why, few enough to be no burden.
const (
	maxRefusing       = 128
	maxRefusingPerUID = 32
)

// maxResting is the number of accounts beyond which those without connections
// and with a full allowance are forgotten.
const maxResting = 1024

// minIdle is how long a connection must have been idle to give way to a new one
// of an ordinary user: a client that has just connected or been answered is
// about to make its next call.
const minIdle = time.Second

func newAccounts(limits Limits) *accounts {
	return &accounts{limits: limits, byUID: make(map[uint32]*account)}
}

// admission is what becomes of a new connection.
type admission int

const (
	admitted admission = iota
	refused            // served, but every request is answered with a refusal
	dropped            // closed at once
)

// connect accounts for the new connection c, and returns the connection that
// must be closed to make room for it, nil if there is none. Unless c is dropped,
// disconnect must follow.
func (a *accounts) connect(c *conn) (was admission, evict *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	acct := a.byUID[c.peer.UID]
	if acct == nil {
		acct = a.open(c.peer.UID)
	}
	c.account = acct
	acct.privileged = acct.privileged || c.privileged
	c.pause = acct.pause()
	total := a.limits.Connections
	if c.privileged {
		total += a.limits.Reserve
	}
	switch {
	case acct.conns >= a.limits.ConnectionsPerUID:
		evict = acct.giveWay(c)
	case a.conns >= total:
		evict = a.idleOfMost(c)
	default:
		return a.admit(c), nil
	}
	if evict != nil {
		a.evicted++
		a.part(evict) // or the next newcomer would be counted beside it
		return a.admit(c), evict
	}
	a.refused.Add(1)
	if a.refusing < maxRefusing && acct.refusing < maxRefusingPerUID {
		a.refusing++
		acct.refusing++
		c.was, c.counted = refused, true
		return refused, nil
	}
	a.forgetIfResting(acct)
	return dropped, nil
}

// admit counts c. The caller holds a.mu.
func (a *accounts) admit(c *conn) admission {
	a.conns++
	c.account.conns++
	c.was, c.counted, c.since = admitted, true, time.Now()
	c.account.idle.push(c)
	return admitted
}

// idleOfMost returns a connection that gives way to c: of the user with the most
// connections among those who have one. The caller holds a.mu.
func (a *accounts) idleOfMost(c *conn) (oldest *conn) {
	for _, acct := range a.byUID {
		if idle := acct.giveWay(c); idle != nil && (oldest == nil || acct.conns > oldest.account.conns) {
			oldest = idle
		}
	}
	return oldest
}

// giveWay returns the connection that has been idle for the longest time, nil if
// none has been for long enough to give way to c.
func (acct *account) giveWay(c *conn) *conn {
	oldest := acct.idle.first
	if oldest == nil || !c.privileged && time.Since(oldest.since) < minIdle {
		return nil
	}
	return oldest
}

// open makes the account of a uid. The caller holds a.mu.
func (a *accounts) open(uid uint32) *account {
	if len(a.byUID) >= maxResting {
		for _, acct := range a.byUID {
			a.forgetIfResting(acct)
		}
	}
	acct := &account{uid: uid, throttles: rate.NewLimiter(throttleRate, throttleBurst)}
	if a.limits.RatePerUID > 0 {
		acct.limiter = rate.NewLimiter(rate.Limit(a.limits.RatePerUID), a.limits.BurstPerUID)
	}
	a.byUID[uid] = acct
	return acct
}

// disconnect undoes connect.
func (a *accounts) disconnect(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.part(c)
}

// part is disconnect for who holds a.mu. It may be called again.
func (a *accounts) part(c *conn) {
	a.leave(c)
	if !c.counted {
		return
	}
	c.counted = false
	if c.was == admitted {
		a.conns--
		c.account.conns--
	} else {
		a.refusing--
		c.account.refusing--
	}
	a.forgetIfResting(c.account)
}

// forgetIfResting drops an account that has nothing to remember. The caller
// holds a.mu. A call that is still in flight on a connection that has gone
// keeps a pointer of its own.
func (a *accounts) forgetIfResting(acct *account) {
	if acct.conns > 0 || acct.refusing > 0 || acct.active || acct.calls.Load() > 0 {
		return
	}
	if acct.throttles.Tokens() < throttleBurst || acct.limiter != nil && acct.limiter.Tokens() < float64(a.limits.BurstPerUID) {
		return
	}
	delete(a.byUID, acct.uid)
}

// begin reports whether a call may start on c now. If so, end must follow.
func (a *accounts) begin(c *conn) bool {
	acct, total := c.account, int64(a.limits.Calls)
	if c.privileged {
		total += int64(a.limits.Reserve)
	}
	if acct.calls.Add(1) > int64(a.limits.CallsPerUID) {
		acct.calls.Add(-1)
		a.refused.Add(1)
		return false
	}
	if a.calls.Add(1) > total || acct.limiter != nil && !acct.limiter.Allow() {
		a.end(acct)
		a.refused.Add(1)
		return false
	}
	return true
}

// end undoes begin.
func (a *accounts) end(acct *account) {
	a.calls.Add(-1)
	acct.calls.Add(-1)
}
