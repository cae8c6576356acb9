package daemon_test

import (
	"syscall"
	"testing"
	"time"

	"cmkd/testenv/rig"
)

// plugin returns what the status says of a plugin.
func plugin(t *testing.T, r *rig.Rig, name string) (pid, restarts int, ok bool) {
	t.Helper()
	status := r.Status(t)
	for _, p := range status.Plugins {
		if p.Name == name {
			return p.PID, p.Restarts, p.State == "ok"
		}
	}
	t.Fatalf("no plugin %s in the status %+v", name, status)
	return 0, 0, false
}

// replaced waits until another process than pid serves the plugin, and
// returns how long that took.
func replaced(t *testing.T, r *rig.Rig, name string, pid int) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		if now, _, ok := plugin(t, r, name); ok && now != pid {
			return time.Since(begun)
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("plugin %s was not replaced in a minute", name)
		}
		time.Sleep(time.Millisecond) // polls the status
	}
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("signal %v to %d: %v", s, pid, err)
	}
}

var pluginNames = []string{"symmetric", "asymmetric", "hmac"}
