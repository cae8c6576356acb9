package socket

import (
	"sync"
	"sync/atomic"

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
}

// account is the share of one uid. It outlives its connections where a rate is
// limited: a new connection must not bring a new allowance.
type account struct {
	calls    atomic.Int64
	limiter  *rate.Limiter // nil: any rate
	conns    int           // guarded by accounts.mu, as is refusing
	refusing int
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

// connect accounts for a new connection of uid. Unless it is dropped,
// disconnect must follow.
func (a *accounts) connect(uid uint32) (*account, admission) {
	a.mu.Lock()
	defer a.mu.Unlock()
	acct := a.byUID[uid]
	if acct == nil {
		acct = a.open(uid)
	}
	if a.conns < a.limits.Connections && acct.conns < a.limits.ConnectionsPerUID {
		a.conns++
		acct.conns++
		return acct, admitted
	}
	a.refused.Add(1)
	if a.refusing < maxRefusing && acct.refusing < maxRefusingPerUID {
		a.refusing++
		acct.refusing++
		return acct, refused
	}
	a.forgetIfResting(uid, acct)
	return nil, dropped
}

// open makes the account of a uid. The caller holds a.mu.
func (a *accounts) open(uid uint32) *account {
	if len(a.byUID) >= maxResting {
		for u, acct := range a.byUID {
			a.forgetIfResting(u, acct)
		}
	}
	acct := &account{}
	if a.limits.RatePerUID > 0 {
		acct.limiter = rate.NewLimiter(rate.Limit(a.limits.RatePerUID), a.limits.BurstPerUID)
	}
	a.byUID[uid] = acct
	return acct
}

// disconnect undoes connect.
func (a *accounts) disconnect(uid uint32, acct *account, was admission) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if was == admitted {
		a.conns--
		acct.conns--
	} else {
		a.refusing--
		acct.refusing--
	}
	a.forgetIfResting(uid, acct)
}

// forgetIfResting drops an account that has nothing to remember. The caller
// holds a.mu. A call that is still in flight on a connection that has gone
// keeps a pointer of its own.
func (a *accounts) forgetIfResting(uid uint32, acct *account) {
	if acct.conns > 0 || acct.refusing > 0 || acct.calls.Load() > 0 {
		return
	}
	if acct.limiter != nil && acct.limiter.Tokens() < float64(a.limits.BurstPerUID) {
		return
	}
	delete(a.byUID, uid)
}

// begin reports whether acct may start a call now. If so, end must follow.
func (a *accounts) begin(acct *account) bool {
	if acct.calls.Add(1) > int64(a.limits.CallsPerUID) {
		acct.calls.Add(-1)
		a.refused.Add(1)
		return false
	}
	if a.calls.Add(1) > int64(a.limits.Calls) {
		a.end(acct)
		a.refused.Add(1)
		return false
	}
	if acct.limiter != nil && !acct.limiter.Allow() {
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

// Stats are counts of a [Server].
type Stats struct {
	Connections int   // open now
	Calls       int64 // in flight now
	Refused     int64 // calls and connections refused since the start
}

func (a *accounts) stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{Connections: a.conns, Calls: a.calls.Load(), Refused: a.refused.Load()}
}
