package plugins_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/plugins"
)

// holds waits until what is true, which it must be within a minute.
func holds(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begun := time.Now(); !is(); time.Sleep(5 * time.Millisecond) { // polls a state
		if time.Since(begun) > time.Minute {
			t.Fatalf("after a minute it does not hold that %s", what)
		}
	}
}

// pair starts two plugins on one token, each of which is without it while its file is
// there.
func pair(t *testing.T, awayAfter time.Duration) (hosts [2]*plugins.Host, files [2]string) {
	t.Helper()
	token := new(plugins.Token)
	for i := range hosts {
		files[i] = filepath.Join(shortDir(t), "away")
		s := spec(t, map[string]string{"while-exists": files[i], "open-error": string(backends.Lost)})
		s.Token, s.AwayAfter = token, awayAfter
		hosts[i] = start(t, s)
	}
	return hosts, files
}

func lose(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTokenOfSeveral: when one plugin has lost the token, the others see whether they
// have, although nobody calls them, and all have been without it for as long.
func TestTokenOfSeveral(t *testing.T) {
	t.Parallel()
	const awayAfter = 6 * time.Second
	hosts, files := pair(t, awayAfter)
	lose(t, files[0])
	kill(t, hosts[0].Status().PID)
	holds(t, "the first has no process", func() bool { return hosts[0].Phase() != plugins.Ready })
	// Later, and still before it counts as lasting.
	time.Sleep(awayAfter * 2 / 3) // the time that the second must not count from
	lose(t, files[1])
	holds(t, "the second is asked", func() bool { return hosts[1].Phase() != plugins.Ready })
	holds(t, "the first is away", hosts[0].Away)
	// It answered for a while after the first was lost, so its own time has just begun.
	if hosts[1].Away() {
		t.Error("the second is away for as long as the first, although it served meanwhile")
	}
	holds(t, "the second is away", hosts[1].Away)
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range hosts {
		holds(t, "it serves again", func() bool { return h.Phase() == plugins.Ready && !h.Away() })
		if err := h.Prove(t.Context()); err != nil {
			t.Errorf("host %d: %v", i, err)
		}
	}
}

// TestTokenLostByAll: a token that is gone for both has been since the first lost it.
func TestTokenLostByAll(t *testing.T) {
	t.Parallel()
	hosts, files := pair(t, 2*time.Second)
	for _, file := range files {
		lose(t, file)
	}
	kill(t, hosts[0].Status().PID)
	holds(t, "the second has no process, which nobody called", func() bool { return hosts[1].Phase() != plugins.Ready })
	holds(t, "the first is away", hosts[0].Away)
	if !hosts[1].Away() {
		t.Error("the first is away, and the second is not yet")
	}
}

// TestProve: a plugin that is asked finds out that its token is gone.
func TestProve(t *testing.T) {
	t.Parallel()
	hosts, files := pair(t, time.Minute)
	if err := hosts[0].Prove(t.Context()); err != nil {
		t.Error(err)
	}
	lose(t, files[0])
	if err := hosts[0].Prove(t.Context()); err != nil {
		t.Errorf("within a second of the last proof: %v", err)
	}
	holds(t, "it is found out", func() bool { return backends.CodeOf(hosts[0].Prove(t.Context())) == backends.Lost })
	holds(t, "its process is lost", func() bool { return hosts[0].Phase() != plugins.Ready })
	if err := hosts[1].Prove(t.Context()); err != nil || hosts[1].Status().Restarts != 0 {
		t.Errorf("the other one: %v, %+v", err, hosts[1].Status())
	}
}
