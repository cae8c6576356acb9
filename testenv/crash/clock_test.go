package crash

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// clock is the clock of a daemon in another process, ahead of the system's. It is in
// memory that both map, so that it survives a kill.
type clock struct {
	path   string
	ahead  *atomic.Int64 // ns
	target *atomic.Int64 // ns; the daemon moves ahead towards it in steps, and runs its jobs at each
	asked  *atomic.Int64 // number of times that jobs should have run
	ran    *atomic.Int64 // number of times that they did; asked is set to it when they fail
	failed *atomic.Int64 // number of times that they failed
}

// step is how far the clock moves at once: more than a day would hold deletions.
const step = 20 * time.Hour

// openClock maps the file, which it makes if need be.
func openClock(path string) (*clock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(4096); err != nil {
		return nil, err
	}
	memory, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	words := (*[5]atomic.Int64)(unsafe.Pointer(&memory[0])) // aligned: it begins a page
	return &clock{path, &words[0], &words[1], &words[2], &words[3], &words[4]}, nil
}

func newClock(t testing.TB, path string) *clock {
	t.Helper()
	c, err := openClock(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// stop gives up what is left of the time that should pass.
func (c *clock) stop() {
	c.target.Store(c.ahead.Load())
	c.ran.Store(0)
	c.asked.Store(0)
	c.failed.Store(0)
}

// run is the daemon's end: it does what is asked until the process ends.
func (c *clock) run(jobs func() error) {
	for {
		if c.asked.Load() <= c.ran.Load() && c.target.Load() <= c.ahead.Load() {
			time.Sleep(time.Millisecond)
			continue
		}
		if c.asked.Load() <= c.ran.Load() {
			c.ahead.Add(int64(min(step, time.Duration(c.target.Load()-c.ahead.Load()))))
		}
		if jobs() != nil {
			c.failed.Add(1)
		}
		c.ran.Add(1)
	}
}
