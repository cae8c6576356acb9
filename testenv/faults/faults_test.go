// Package faults injects faults into a whole cmkd under a steady load, one after
// the other, and compares what callers, status, metrics and log say of each, and
// how long it takes until all is well again, with a table. `make faults` runs the
// whole table; the tests of every day run the rows that are quick.
package faults

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// long is set by `make faults`.
var long = os.Getenv("CMKD_FAULTS") != ""

// seenWithin is how long a fault is waited for to show where the table says so, and
// returns how long the end of a fault is waited for before that counts as
// never. Both are for a loaded machine: what a row promises is its own time.
const (
	seenWithin = time.Minute
	returns    = 3 * time.Minute
)

// row is one fault.
type row struct {
	name string
	// quick rows run in the tests of every day.
	quick bool
	// inject begins the fault and heal ends it. nil: it ends on its own.
	inject, heal func(*stage)
	// lasts is how long the fault lasts at least.
	lasts time.Duration
	// callers are the error codes that callers may see, and must those that they
	// do see. The bystander may see none unless everybody is affected.
	callers, must []string
	everybody     bool
	// shortened: the row puts an older trail in the place of the one that there was.
	shortened bool
	// only are the kinds of calls that may see them, nil: all.
	only []kind
	// lasting: a 4xx may be among the codes, since the state lasts until somebody
	// acts.
	lasting bool
	// status is in a status that is not ok, and metric a line of the metrics, while
	// the fault lasts. "": the fault is over before monitoring can see it.
	status, metric string
	// log is in the log meanwhile, a regular expression for a line of it.
	log string
	// prompt is the longest that a call of a kind that is not in only may take, on a
	// machine that is not loaded; 0: as long as it likes.
	prompt time.Duration
	// within is how long after its end every kind of call is answered well and the
	// status is ok, on a machine that is not loaded.
	within time.Duration
}

// group are rows that run in one daemon, one after the other.
type group struct {
	name string
	set  func(t *testing.T) setup
	rows []row
}

// stage is where a row is played.
type stage struct {
	*testing.T
	*house
	// result is noted in the table beside the codes.
	notes []string
	undo  func()
}

// note adds to the table what the row's own checks have measured.
func (s *stage) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// result is a line of the table.
type result struct {
	name, callers, status, log string
	recovered                  time.Duration
	passed                     bool
}

// results collects the table.
type results struct {
	mu   sync.Mutex // guards list
	list []result
}

func (r *results) add(one result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, one)
}

// print prints the table and its sum.
func (r *results) print(t *testing.T) {
	var b strings.Builder
	passed := 0
	b.WriteString("| fault | callers saw | status and metrics | log | recovers after | |\n|---|---|---|---|---|---|\n")
	for _, one := range r.list {
		verdict := "failed"
		if one.passed {
			passed++
			verdict = "ok"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %v | %s |\n", one.name, one.callers, one.status, one.log, one.recovered.Round(10*time.Millisecond), verdict)
	}
	t.Logf("\n%s\n%d of %d", &b, passed, len(r.list))
}

// TestFaults plays all groups, several at a time.
func TestFaults(t *testing.T) {
	var table results
	t.Run("rows", func(t *testing.T) {
		for _, g := range groups {
			rows := slices.DeleteFunc(slices.Clone(g.rows), func(r row) bool { return !long && !r.quick })
			if len(rows) == 0 {
				continue
			}
			t.Run(g.name, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t, g.set(t))
				for _, r := range rows {
					t.Run(r.name, func(t *testing.T) { table.add(h.play(t, r)) })
				}
			})
		}
	})
	table.print(t)
}

// play plays a row.
func (h *house) play(t *testing.T, r row) (out result) {
	out.name = r.name
	defer func() { out.passed = !t.Failed() }()
	if h.lost {
		t.Fatal("the daemon did not come back from a row before")
	}
	s := &stage{T: t, house: h}
	h.settle(t, time.Now()) // after the row before
	h.watch.reset()
	mark, begun := h.load.mark(), time.Now()
	r.inject(s)
	h.show(t, r, mark, begun)
	healed := time.Now()
	if r.heal != nil {
		r.heal(s)
		healed = time.Now()
	}
	out.recovered = h.settle(t, healed)
	if long && out.recovered > r.within { // elsewhere the machine may be loaded
		t.Errorf("recovered after %v, want %v", out.recovered, r.within)
	}
	calls := h.load.since(mark)
	out.callers = strings.Join(append(s.notes, summary(calls)), "; ")
	out.status, out.log = seen(r), strings.NewReplacer(`"level":"`, "", `","msg":"`, ": ").Replace(r.log)
	h.judge(t, r, calls)
	return out
}

// seen is what a row that passes has seen.
func seen(r row) string {
	var list []string
	for _, s := range []string{r.status, r.metric} {
		if s != "" {
			list = append(list, "`"+s+"`")
		}
	}
	if list == nil {
		return "ok again before anybody asks"
	}
	return strings.Join(list, ", ")
}

// show waits until the fault shows in everything that the row names.
func (h *house) show(t *testing.T, r row, mark int, begun time.Time) {
	t.Helper()
	status, metric, log := regexp.MustCompile(r.status), regexp.MustCompile(r.metric), regexp.MustCompile(r.log)
	for {
		var missing []string
		codes := map[string]bool{}
		for _, c := range h.load.since(mark) {
			codes[c.code] = true
		}
		for _, c := range r.must {
			if !codes[c] {
				missing = append(missing, "callers do not see "+c)
			}
		}
		if r.status != "" && !h.watch.sawStatus(status) {
			missing = append(missing, "no status with "+r.status)
		}
		if r.metric != "" && !h.watch.sawMetric(metric) {
			missing = append(missing, "no metric "+r.metric)
		}
		if !log.MatchString(h.rig.Log()[h.logged:]) {
			missing = append(missing, "the log has no "+r.log)
		}
		if len(missing) == 0 && time.Since(begun) >= r.lasts {
			return
		}
		if time.Since(begun) > r.lasts+seenWithin {
			t.Errorf("%s\nthe status was\n%s", strings.Join(missing, "\n"), h.watch.all())
			return
		}
		time.Sleep(20 * time.Millisecond) // polls what was seen
	}
}

// all are the kinds of calls.
var all = []kind{encrypts, dataKeys, decrypts, signs, rsaCrypts, macs, describes, changes, creates, bystander}

// settle waits until each kind of call has been made and answered well, and the
// status is ok, after at. It returns how long after at that was.
func (h *house) settle(t *testing.T, at time.Time) time.Duration {
	t.Helper()
	for {
		missing := h.load.goodSince(at, all)
		ok := h.watch.okSince(at)
		if len(missing) == 0 && ok {
			return time.Since(at)
		}
		if time.Since(at) > returns {
			h.lost = true
			t.Fatalf("after %v: no good %v, status ok: %t\n%s\nlast errors: %s", returns, missing, ok, h.watch.all(), lastErrors(h.load.since(0)))
		}
		time.Sleep(5 * time.Millisecond) // polls what was seen
	}
}

// judge checks what holds for every fault.
func (h *house) judge(t *testing.T, r row, calls []call) {
	t.Helper()
	for _, w := range h.load.falsities() {
		t.Errorf("a wrong answer: %s", w)
	}
	bad, sample := map[string]int{}, ""
	for _, c := range calls {
		if concerned := r.only == nil || slices.Contains(r.only, c.kind); long && !concerned && r.prompt != 0 && c.took > r.prompt {
			bad[fmt.Sprintf("%s, which the fault is none of, takes more than %v", c.operation, r.prompt)]++
		}
		switch {
		case c.code == "":
			continue
		case c.kind == bystander && !r.everybody:
			bad["the bystander saw "+c.code]++
		case c.code == stopping && slices.Contains(r.callers, noAnswer): // the row ends the daemon
			continue
		case !slices.Contains(r.callers, c.code) && !slices.Contains(r.must, c.code):
			bad[string(c.kind)+" "+c.operation+" saw "+c.code]++
		case c.code == noAnswer: // whatever it was that was asked
			continue
		case r.only != nil && c.kind != bystander && !slices.Contains(r.only, c.kind):
			bad["the fault is none of "+c.operation+"'s, which saw "+c.code]++
		case c.status/100 == 4 && !r.lasting:
			bad[string(c.kind)+" "+c.operation+" is told that it is the caller's fault: "+c.code]++
		default:
			continue
		}
		sample = c.text
	}
	for text, times := range bad {
		t.Errorf("%d times: %s", times, text)
	}
	if sample != "" {
		t.Logf("such as: %s", sample)
	}
	if missing := h.unrecorded(t, calls); len(missing) > 0 && !r.shortened {
		t.Errorf("%d calls were answered and are not in the trail, such as %s", len(missing), missing[0])
	}
	if found := h.leaks(); found != nil {
		t.Errorf("the log has %q", found)
	}
	if left := h.leftovers(t); left != "" {
		t.Errorf("token and database do not agree: %s", left)
	}
}

// summary counts the codes that callers saw.
func summary(calls []call) string {
	codes := map[string]int{}
	var slowest time.Duration
	for _, c := range calls {
		codes[c.code]++
		slowest = max(slowest, c.took)
	}
	good := codes[""]
	delete(codes, "")
	text := fmt.Sprintf("%d good", good)
	for _, c := range slices.Sorted(maps.Keys(codes)) {
		text += fmt.Sprintf(", %d %s", codes[c], c)
	}
	return text + fmt.Sprintf(", the slowest %v", slowest.Round(10*time.Millisecond))
}

// lastErrors are some of the last errors.
func lastErrors(calls []call) string {
	var list []string
	for i := len(calls) - 1; i >= 0 && len(list) < 6; i-- {
		if calls[i].code != "" {
			list = append(list, string(calls[i].kind)+" "+calls[i].operation+": "+calls[i].text)
		}
	}
	return strings.Join(list, "\n  ")
}
