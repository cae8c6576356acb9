package races

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmkd/testenv/memory"
)

// TestKilled ends the daemon while an operation is stopped at one of its steps, and
// starts another one, for all operations of a scene: the operation has happened, or
// it has not, and nothing is left of it in the token. `make races` tries all steps.
func TestKilled(t *testing.T) {
	memory.Pair() // not in a bubble
	for _, sc := range scenes {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newWorld(t, sc).kills(os.Getenv("CMKD_RACES") != "") })
		})
	}
}

func (w *world) kills(all bool) {
	w.reset()
	w.steps.off = true
	before := strings.Join(w.outcome([2]string{}).state, "\n")
	runs := 0
	for _, a := range w.scene.ops(w) {
		if a.second || strings.Contains(a.name, "Encrypt") { // which may make a managed key, and then not use it
			continue
		}
		stops := w.stops(a, all)
		w.reset()
		a.run(w)
		w.steps.off = true
		after := strings.Join(w.outcome([2]string{}).state, "\n")
		for i, stop := range stops {
			if !all && i%share > 0 {
				continue
			}
			runs++
			step, state := w.killed(a, stop)
			if state != before && state != after {
				w.t.Errorf("killed at step %d (%s) of %s\n%s", stop, step, a.name, compare(state, []string{before, after}))
				break
			}
		}
	}
	w.t.Logf("%d kills", runs)
}

// killed kills the daemon at a step of an operation, and returns what the next one
// finds.
func (w *world) killed(a *op, stop int) (step, state string) {
	w.reset()
	w.steps = steps{stop: stop, at: make(chan struct{}), let: make(chan struct{})}
	var ended sync.WaitGroup
	ended.Go(func() { a.run(w) })
	<-w.steps.at
	w.steps.dead = true
	db := w.db
	ended.Go(func() { _ = db.Close() })
	synctest.Wait() // it is closed, or will be as soon as the transaction has failed
	close(w.steps.let)
	ended.Wait()
	step = w.steps.names[stop-1]
	w.steps = steps{off: true}
	w.open()
	for w.later = 0; w.later < 20*time.Minute; w.later += time.Minute { // what comes late is waited for
		if err := w.service.Reconcile(context.Background()); err != nil {
			w.t.Error(err)
		}
	}
	w.later = 0
	return step, strings.Join(w.outcome([2]string{}).state, "\n")
}
