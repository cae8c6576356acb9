package scale

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"cmkd/testenv/rig"
)

// TestTimerSlack checks that the daemon and the plugins run with timers that
// may be late: the daemon starts itself again for that, under the same process
// number. Neither may leave a core file.
func TestTimerSlack(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{Process: true})
	pids := []int{r.Process.Process.Pid}
	for _, p := range r.Status(t).Plugins {
		pids = append(pids, p.PID)
	}
	for _, pid := range pids {
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(slack)); got != "1000000" {
			t.Errorf("timer slack of process %d: %s ns, want 1000000", pid, got)
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
			t.Errorf("process %d may leave a core file:\n%s", pid, limits)
		}
	}
}
