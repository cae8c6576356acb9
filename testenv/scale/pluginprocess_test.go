package scale

import (
	"testing"

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

var pluginNames = []string{"symmetric", "asymmetric", "hmac"}
