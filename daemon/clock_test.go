package daemon_test

import (
	"sync"
	"testing"
	"time"

	"cmkd/testenv/rig"
)

const day = 24 * time.Hour

// clock is a clock that stands still until a test moves it.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newClock() *clock {
	return &clock{now: time.Date(2026, time.January, 10, 12, 0, 0, 0, time.UTC)}
}

// Now is for rig.Config.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// jump moves the clock, and nobody notices on the way.
func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// pass lets time pass as it does for a daemon that runs: its jobs see every
// step.
func (c *clock) pass(t *testing.T, r *rig.Rig, d, step time.Duration) {
	t.Helper()
	for end := c.Now().Add(d); c.Now().Before(end); {
		c.jump(min(step, end.Sub(c.Now())))
		runJobs(t, r)
	}
}

func runJobs(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.Daemon.RunJobs(t.Context()); err != nil {
		t.Fatalf("RunJobs: %v", err)
	}
}
