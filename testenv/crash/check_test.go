package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// second is the label of the token of the custom key store.
const second = "crash-second"

// newWorld starts a daemon in a process of its own, with a second token for custom key
// stores or without: that are twice as many processes.
func newWorld(t testing.TB, stores bool) *world {
	t.Helper()
	w := emptyWorld(t)
	w.stores = stores
	w.start(t, testenv.NewToken(t))
	return w
}

func emptyWorld(t testing.TB) *world {
	t.Helper()
	return &world{
		at: func() int { return 0 }, ids: map[string]string{}, deleted: map[string]int{}, codes: map[string]int{},
		clock: newClock(t, filepath.Join(t.TempDir(), "clock")),
	}
}

func (w *world) start(t testing.TB, token *testenv.Token) {
	t.Helper()
	cfg := rig.Config{Process: true, Regions: regions[1:], Token: token, Wrap: []string{testBinary(t), asDaemon, w.clock.path}}
	w.labels = []string{token.Label}
	if w.stores {
		token.AddToken(t, second)
		w.labels = append(w.labels, second)
		cfg.Tables = fmt.Sprintf("[[token]]\nname = \"second\"\ncluster_id = %q\nmodule = %q\nlabel = %q\npin_file = %q\n%s",
			cluster, token.Module, second, token.PINFile, rig.Environment(map[string]string{"SOFTHSM2_CONF": token.ConfFile}))
	}
	w.rig = rig.New(t, cfg)
	w.life(facts{})
}

// callers are those of a life of the daemon. The last one lets time pass.
func (w *world) callers(random *rand.Rand) []*caller {
	list := []*caller{}
	for i := range 4 {
		list = append(list, &caller{world: w, name: fmt.Sprintf("c%d", i), stores: w.stores && i == 0, random: rand.New(rand.NewPCG(random.Uint64(), 1))})
	}
	return append(list, &caller{world: w, name: "t", random: rand.New(rand.NewPCG(random.Uint64(), 1))})
}

// health is what the status says that matters here.
type health struct {
	State   string
	Plugins []struct {
		Name, State string
		PID         int
	}
}

func (w *world) health(ctx context.Context) (h health, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/status", nil)
	if err != nil {
		return h, err
	}
	c := w.rig.HTTP()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return h, err
	}
	defer func() { _ = resp.Body.Close() }()
	return h, json.NewDecoder(resp.Body).Decode(&h)
}

// well reports whether the daemon and all plugins are well.
func (h *health) well() bool {
	for _, p := range h.Plugins {
		if p.State != "ok" {
			return false
		}
	}
	return h.State == "ok"
}

// recovery bounds how long the daemon may take until it is well again. The machine may
// have a lot else to do.
const recovery = time.Minute

// recovered waits until the daemon is well and has ended what was interrupted, and
// returns what is wrong if that does not happen.
func (w *world) recovered(ctx context.Context, until time.Time) (took time.Duration, problem string) {
	begun := time.Now()
	var h health
	for {
		var err error
		if h, err = w.health(ctx); err == nil && h.well() {
			took = time.Since(begun)
			break
		}
		if time.Now().After(until) {
			return 0, fmt.Sprintf("the daemon is not well: %+v, %v", h, err)
		}
		time.Sleep(2 * time.Millisecond) // polls the status
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		w.clock.reach(ctx.Done()) // the jobs have run
		r, err := readRows(ctx, w.state())
		if err == nil && len(r.explained) == 0 {
			return took, ""
		}
		w.clock.target.Store(w.clock.ahead.Load() + int64(time.Minute)) // what comes late is waited for
		if time.Now().After(until) {
			return 0, fmt.Sprintf("interrupted work is not ended: %v, %v", r.explained, err)
		}
	}
}

func (w *world) state() string { return filepath.Join(w.rig.Dir, "s") }

// check compares what the daemon has with what it acknowledged, in API, database,
// token and trail, as of a position of the disk's log, and begins another life with it.
func (w *world) check(t testing.TB, at int) (problems []string) {
	t.Helper()
	ctx := t.Context()
	w.mu.Lock()
	acknowledged, pending := fold(w.base, w.calls, at)
	calls := w.calls
	w.clients = map[string]*kms.Client{} // of a daemon that has ended
	w.mu.Unlock()
	s := w.observe(ctx)
	happened, problems := settle(acknowledged, pending, s.facts)
	for _, c := range calls {
		if c.operation == "DeleteKey" && (happened[c] || c.ended <= at && c.ended != unanswered) {
			w.deleted[c.event]++
		}
	}
	w.cut += len(pending)
	w.done += len(happened)
	w.verifyProofs(ctx, s, func(p *proof) bool { return p.at <= at })
	problems = append(problems, s.problems...)
	trail, err := readTrail(filepath.Join(w.state(), "audit"))
	if err != nil {
		problems = append(problems, "reading the trail: "+err.Error())
	} else {
		w.back = len(trail.back)
		problems = append(problems, trail.check(calls, w.before, at, happened)...)
		problems = append(problems, trail.checkEvents(w.deleted, s.materials)...)
	}
	r, err := readRows(ctx, w.state())
	if err != nil {
		problems = append(problems, "reading the database: "+err.Error())
	}
	var objects []object
	for _, label := range w.labels {
		objects = append(objects, readToken(t, w.rig.Token, label)...)
	}
	nameless, differences := r.compare(objects)
	problems = append(problems, differences...)
	if most := w.nameless + len(pending) + 1; nameless > most { // the jobs may have been cut off, too
		problems = append(problems, fmt.Sprintf("%d objects have no name, at most %d calls can have left one", nameless, most))
	}
	w.nameless = nameless
	if err := w.verifyTrail(ctx, t); err != nil {
		problems = append(problems, err.Error())
	}
	if h, err := w.health(ctx); err != nil || !h.well() {
		problems = append(problems, fmt.Sprintf("in the end the daemon is not well: %+v, %v", h, err))
	}
	w.ids = s.ids
	w.life(s.facts)
	return problems
}

// verifyTrail has the trail verified by cmkctl.
func (w *world) verifyTrail(ctx context.Context, t testing.TB) error {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(rig.Binaries(t), "cmkctl"), "--socket", w.rig.Socket, "audit", "verify")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cmkctl audit verify: %w\n%s", err, &out)
	}
	return nil
}
