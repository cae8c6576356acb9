package lanes

import (
	"slices"
	"sync/atomic"
	"time"

	"cmkd/plugins/internal/stream"
)

// slot is the place in which a call runs; it tells Health which and how long.
type slot struct{ running atomic.Pointer[running] } // nil: free

// running is a call in a slot. It is one value, so that what Health reads is of
// one call.
type running struct {
	row   *stream.Row
	id    uint64 // of the frame
	class byte
	since time.Time
	// waited: it was seen behind a creation; began is when that was seen to have ended. For quick calls.
	waited atomic.Bool
	began  atomic.Pointer[time.Time]
}

// Overdue names the method of a call that runs for longer than it may, and the id
// of its frame; "" if there is none.
//
// Some modules make one call at a time (p11-kit's remoting has one connection), so
// that a quick call may wait for keys that were being made when it came: its time begins when
// those are seen to have ended. All the same it may not take longer than the slow ones. Keys that
// others make later do not count: as long as there are some, a call that hangs would never be found.
func (l *Lanes) Overdue(now time.Time) (method string, id uint64) {
	// Backends make one key at a time, so of the creations the one that began
	// first runs, since then or since the call before it ended.
	var first [2]*running
	for _, s := range l.slots {
		r := s.running.Load()
		switch {
		case r == nil:
		case now.Sub(r.since) > l.limits.Slow:
			return r.row.Name, r.id
		case r.row.Creates():
			if f := first[turnOf(r.row)]; f == nil || r.since.Before(f.since) {
				first[turnOf(r.row)] = r
			}
		}
	}
	// Read last, as it is written before a slot is free: else a call whose turn
	// has just come would seem to have had it since it began to wait.
	l.mu.Lock()
	ended := l.slowEnded
	l.mu.Unlock()
	creation := first[0]
	if other := first[1]; creation == nil || other != nil && other.since.Before(creation.since) {
		creation = other
	}
	for _, s := range l.slots {
		if r := s.running.Load(); r != nil && r.row.Pace != stream.Slow && now.Sub(r.turn(creation, now)) > l.limits.Quick {
			return r.row.Name, r.id
		}
	}
	for i, r := range first {
		if r == nil {
			continue
		}
		since := r.since
		if ended[i].After(since) {
			since = ended[i]
		}
		if now.Sub(since) > l.limits.Creation(r.class) {
			return r.row.Name, r.id
		}
	}
	return "", 0
}

// turn is when the time of r, a quick call, began. Of the creations that run now, creation is the one
// that began first, nil if there is none.
func (r *running) turn(creation *running, now time.Time) time.Time {
	if creation != nil && creation.since.Before(r.since) {
		r.waited.Store(true)
		return now
	}
	if !r.waited.Load() {
		return r.since
	}
	r.began.CompareAndSwap(nil, &now)
	return *r.began.Load()
}

// limit is how long a call that begins now may run in the module. A quick one may
// have to wait for a key that is being made: see overdue.
func (l *Lanes) limit(r *stream.Row) time.Duration {
	making := func(s *slot) bool {
		other := s.running.Load()
		return other != nil && other.row.Creates()
	}
	if r.Pace == stream.Slow || slices.ContainsFunc(l.slots, making) {
		return l.limits.Slow
	}
	return l.limits.Quick
}

// hadTurn says of the call in the slot, which has ended with [backends.Timeout], whether
// the backend had come to it, with l.mu held: it had if no other one that waits for the
// same turn began before it. It may have been too late only behind the token's own work.
// If that did not count, the call behind it would seem to have had the turn all the while.
func (l *Lanes) hadTurn(s *slot) bool {
	ended := s.running.Load()
	if ended == nil { // its caller had left before it began
		return false
	}
	for _, other := range l.slots {
		r := other.running.Load()
		if other != s && r != nil && r.row.Pace == stream.Slow && turnOf(r.row) == turnOf(ended.row) && r.since.Before(ended.since) {
			return false
		}
	}
	return true
}

// turnOf says which slow calls wait for each other in the backend: data key
// pairs, and all that change the token.
func turnOf(r *stream.Row) int {
	if r == stream.GenerateDataKeyPair.Row {
		return 1
	}
	return 0
}
