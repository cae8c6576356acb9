package rig

import (
	"sync"
	"testing"
	"time"
)

// Day is the unit of waiting periods.
const Day = 24 * time.Hour

// Clock is a clock that stands still until a test moves it.
type Clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

// NewClock starts on 10 January 2026, at noon UTC.
func NewClock() *Clock {
	return &Clock{now: time.Date(2026, time.January, 10, 12, 0, 0, 0, time.UTC)}
}

// Now is for rig.Config.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Jump moves the clock, and nobody notices on the way.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Pass lets time pass as it does for a daemon that runs: its jobs see every
// step.
func (c *Clock) Pass(t *testing.T, r *Rig, d, step time.Duration) {
	t.Helper()
	for end := c.Now().Add(d); c.Now().Before(end); {
		c.Jump(min(step, end.Sub(c.Now())))
		RunJobs(t, r)
	}
}

// RunJobs has the daemon do what is due by its clock.
func RunJobs(t *testing.T, r *Rig) {
	t.Helper()
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Fatalf("RunJobs: %v", err)
	}
}
