package faults

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"cmkd/testenv/shim"
)

// clock is a clock that a row moves.
type clock struct {
	mu    sync.Mutex // guards ahead
	ahead time.Duration
}

// Now is for rig.Config.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) set(ahead time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = ahead
}

const year = 365 * 24 * time.Hour

// wrongClock has the clock wrong while the jobs of the daemon look at it.
func wrongClock(ahead time.Duration) func(*stage) {
	return func(s *stage) {
		s.clock.set(ahead)
		if err := s.rig.Daemon.RunJobs(s.Context()); err != nil {
			s.Errorf("jobs: %v", err)
		}
	}
}

// rightClock ends it as operators do.
func rightClock(s *stage) {
	s.clock.set(0)
	if err := s.rig.Daemon.RunJobs(s.Context()); err != nil {
		s.Errorf("jobs: %v", err)
	}
	if status, body := s.post(s.T, "/confirm-clock", "{}"); status != 200 {
		s.Errorf("POST /confirm-clock: %d %s", status, body)
	}
}

var clockRows = group{name: "clock", set: func(t *testing.T) setup {
	set := plain(t)
	set.clock = &clock{}
	return set
}, rows: []row{
	{
		name: "clock a year ahead", quick: true, inject: wrongClock(year), heal: rightClock,
		status: `"deletionsHeld":true`, metric: `^cmkd_deletions_held 1`, lasts: time.Second, within: 3 * time.Second,
	},
	{
		name: "clock a year behind", quick: true, inject: wrongClock(-year), heal: rightClock,
		lasts: time.Second, within: 3 * time.Second,
	},
}}

// drained is within what the daemon ends, also if a call hangs, on a machine that is
// not loaded.
const drained = 12 * time.Second

// term ends the daemon with SIGTERM, notes how long that took, and starts it
// again.
func term(s *stage) {
	began := time.Now()
	s.stop()
	took := time.Since(began)
	if long && took > drained {
		s.Errorf("SIGTERM took %v, want %v", took, drained)
	}
	s.note("SIGTERM took %v", took.Round(100*time.Millisecond))
	s.shim.ClearAll()
	s.start()
}

// hup has the configuration read again, and waits until the plugins are new.
func hup(s *stage) {
	old := s.plugin(s.T, "symmetric")
	if err := s.rig.Process.Process.Signal(syscall.SIGHUP); err != nil {
		s.Fatal(err)
	}
	began := time.Now()
	for s.plugin(s.T, "symmetric") == old {
		if time.Since(began) > time.Minute {
			s.Fatal("a minute after SIGHUP the plugins are the old ones")
		}
		time.Sleep(5 * time.Millisecond) // polls the status
	}
	s.note("new plugins after %v", time.Since(began).Round(10*time.Millisecond))
}

// wrongConfiguration has a configuration read that the daemon cannot use.
func wrongConfiguration(s *stage) {
	good := read(s.T, s.rig.Path)
	write(s.T, s.rig.Path, append(slices.Clone(good), "nonsense = true\n"...))
	if err := s.rig.Process.Process.Signal(syscall.SIGHUP); err != nil {
		s.Fatal(err)
	}
	s.undo = func() {
		write(s.T, s.rig.Path, good)
		s.reload()
	}
}

// hung has one call hang in the token.
func hung(s *stage) {
	calls := s.shim.Calls("C_Encrypt")
	s.shim.SetRule("C_Encrypt", shim.Rule{Do: shim.Hang, Times: 1})
	for s.shim.Calls("C_Encrypt") == calls {
		time.Sleep(time.Millisecond) // polls a counter
	}
}

// folders counts the folders of plugin processes.
func (s *stage) folders() int {
	s.Helper()
	list, err := filepath.Glob(filepath.Join(s.state, "plugins", "*"))
	if err != nil {
		s.Fatal(err)
	}
	n := 0
	for _, f := range list {
		if fi, err := os.Stat(f); err == nil && fi.IsDir() {
			n++
		}
	}
	return n
}

// killed kills the daemon again and again.
func killed(s *stage) {
	before := s.folders()
	for range 3 {
		s.rig.Kill()
		s.start()
	}
	if after := s.folders(); after > before {
		s.Errorf("%d folders of plugins are left, %d were there before", after, before)
	}
}

// second starts a second daemon with the same configuration.
func second(s *stage) { s.refused("another") }

var lifeRows = group{name: "start and stop", set: plain, rows: []row{
	{
		name: "SIGTERM under load", quick: true, inject: term, callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "SIGTERM with a hung call", quick: true, inject: func(s *stage) { hung(s); term(s) },
		callers: []string{noAnswer, dependency, unavailable}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "SIGHUP under load", quick: true, inject: hup, within: 2 * time.Second,
	},
	{
		name: "SIGHUP with a configuration that is wrong", quick: true, inject: wrongConfiguration, heal: undo,
		status: `"reloadError":"`, metric: `^cmkd_last_reload_successful 0`, log: said("ERROR", "reload failed"), within: 2 * time.Second,
	},
	{
		name: "SIGHUP with a hung call", inject: func(s *stage) { hung(s); hup(s) }, heal: clearRules, within: 15 * time.Second,
	},
	{
		name: "SIGKILL, three times", quick: true, inject: killed, callers: []string{noAnswer}, everybody: true, within: 5 * time.Second,
	},
	{
		name: "two daemons with one state", quick: true, inject: second, within: time.Second,
	},
}}
