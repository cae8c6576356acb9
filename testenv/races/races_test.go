package races

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"cmkd/testenv/memory"
)

// TestPairs stops operations at their steps and runs another one there, for all pairs
// of a scene. What that leads to is what one after the other leads to, in one of
// the two orders. Each pair meets at one of the steps, another for each pair, and
// with the race detector only a share of them does; `make races` tries all.
func TestPairs(t *testing.T) {
	memory.Pair() // not in a bubble
	for _, sc := range scenes {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newWorld(t, sc).pairs(os.Getenv("CMKD_RACES") != "") })
		})
	}
}

// share: one of so many pairs meets, and all of delicate operations.
var share = 1

// delicate operations have been seen to go wrong beside each other.
func (o *op) delicate() bool {
	return slices.ContainsFunc([]string{"Import", "Replicate", "UpdatePrimary", "PutKeyPolicy", "Disconnect, "}, func(name string) bool {
		return strings.Contains(o.name, name)
	})
}

func (w *world) pairs(all bool) {
	ops := w.scene.ops(w)
	pairs, runs, steps := 0, 0, 0
	for i, a := range ops {
		stops := w.stops(a, all)
		if a.second || len(stops) == 0 {
			continue
		}
		steps += len(stops)
		for j, b := range ops {
			if !all && (i+2*j)%share > 0 && (!a.delicate() || !b.delicate()) {
				continue
			}
			pairs++
			at := stops
			if !all {
				at = stops[(i+j)%len(stops):][:1]
			}
			for _, stop := range at {
				runs++
				if !w.pair(a, b, stop) {
					break
				}
			}
		}
	}
	w.t.Logf("%d operations, %d pairs, %d steps, %d runs", len(ops), pairs, steps, runs)
}

// inOrder runs one operation after the other.
func (w *world) inOrder(first, second *op) *outcome {
	if o, ok := w.orders[[2]*op{first, second}]; ok {
		return o
	}
	w.reset()
	var answers [2]string
	for i, o := range []*op{first, second} {
		out, code := o.run(w)
		answers[i] = w.answer(o, out, code)
	}
	w.steps.off = true
	o := w.outcome(answers)
	w.orders[[2]*op{first, second}] = o
	return o
}

// alone runs one operation, beside another that was refused.
func (w *world) alone(a *op, refused int, record string) string {
	w.reset()
	out, code := a.run(w)
	w.steps.off = true
	var answers [2]string
	answers[1-refused] = w.answer(a, out, code)
	answers[refused] = record
	return w.outcome(answers).text()
}

// pair runs b at a step of a.
func (w *world) pair(a, b *op, stop int) bool {
	got, step := w.meet(a, b, stop)
	want := []string{w.inOrder(a, b).text(), w.inOrder(b, a).turned().text()}
	text := got.text()
	if slices.Contains(want, text) {
		return true
	}
	// A key that is being rotated refuses a rotation on demand, as AWS does: nothing
	// else comes of that than the record.
	for i, answer := range got.answers {
		if strings.HasSuffix(answer, "RotateKeyOnDemand: ConflictException") {
			got.records = slices.DeleteFunc(got.records, func(r string) bool { return strings.Contains(r, "ConflictException") })
			if got.text() == w.alone([]*op{a, b}[1-i], i, answer) {
				return true
			}
		}
	}
	w.t.Errorf("%s at step %d (%s) of %s\n%s", b.name, stop, step, a.name, compare(text, want))
	return false
}

// stops are the steps of an operation, by their numbers: all of them, or without
// those that come before another without anything happening in between.
func (w *world) stops(a *op, long bool) []int {
	w.reset()
	a.run(w)
	names := w.steps.names
	quiet := func(name string) bool { return name == "now" || name == "route" || name == "available" }
	var list []int
	for i, name := range names {
		if long || !quiet(name) || i+1 == len(names) || !quiet(names[i+1]) {
			list = append(list, i+1)
		}
	}
	return list
}

// meet stops a at a step, runs b, as far as it comes, and lets a go on.
func (w *world) meet(a, b *op, stop int) (got *outcome, step string) {
	w.reset()
	w.steps = steps{stop: stop, at: make(chan struct{}), let: make(chan struct{})}
	var answers [2]string
	var both sync.WaitGroup
	both.Go(func() {
		out, code := a.run(w)
		answers[0] = w.answer(a, out, code)
	})
	<-w.steps.at
	both.Go(func() {
		out, code := b.run(w)
		answers[1] = w.answer(b, out, code)
	})
	synctest.Wait() // b has ended, or waits for a
	close(w.steps.let)
	both.Wait()
	return w.outcome(answers), w.steps.names[stop-1]
}

// compare shows where an outcome differs from the nearest of those wanted.
func compare(got string, want []string) string {
	nearest := ""
	for i, w := range want {
		if text := difference(got, w); i == 0 || len(text) < len(nearest) {
			nearest = text
		}
	}
	return nearest
}

func difference(got, want string) string {
	g, w := lines(got), lines(want)
	text := ""
	for l, n := range g {
		if n > w[l] {
			text += fmt.Sprintf("  got  %s\n", l)
		}
	}
	for l, n := range w {
		if n > g[l] {
			text += fmt.Sprintf("  want %s\n", l)
		}
	}
	return text
}
