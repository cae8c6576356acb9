package socket

import "time"

// Class tells apart who waits, in statistics.
type Class int

// The classes.
const (
	Users      Class = iota
	Privileged       // see [Config.Privileged]
	classes
)

// WaitBounds are the upper bounds of [Waits.Buckets].
var WaitBounds = [...]time.Duration{time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2500 * time.Millisecond, 10 * time.Second}

// Waits are the requests of a class that had to wait for their turn.
type Waits struct {
	Waiting int           // now
	Count   uint64        // since the start
	Sum     time.Duration // of what they waited
	// Buckets count those that waited for no longer than the bound.
	Buckets [len(WaitBounds)]uint64
}

// end counts one that waited for d.
func (w *Waits) end(d time.Duration) {
	w.Waiting--
	w.Count++
	w.Sum += d
	for i := len(WaitBounds) - 1; i >= 0 && d <= WaitBounds[i]; i-- {
		w.Buckets[i]++
	}
}

// Stats are counts of a [Server].
type Stats struct {
	Connections int   // open now
	Calls       int64 // in flight now
	Refused     int64 // calls and connections refused since the start
	Evicted     int64 // idle connections closed to make room, since the start
	Active      int   // users who share the turns
	Waits       [classes]Waits
}

func (a *accounts) stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.review(time.Now())
	return Stats{
		Connections: a.conns, Calls: a.calls.Load(), Refused: a.refused.Load(), Evicted: a.evicted,
		Active: len(a.active), Waits: a.waits,
	}
}
