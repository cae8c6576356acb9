package plugins

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// Group is the Hosts of one plugin on tokens that hold the same keys, its members. Calls
// go to those that have a process, to the one with the fewest calls under way, and a call
// that was lost with one is repeated on another. What makes and destroys keys goes to the
// first that has a process. A key that one does not show is looked for on the others, and missing if none
// of them shows it.
type Group struct {
	Calls
	*traffic
	spec    GroupSpec
	hosts   []*Host
	turn    atomic.Uint32                 // where the next search for a process begins
	changed atomic.Pointer[chan struct{}] // closed when the state of a Host has changed
}

// GroupSpec says how a [Group] makes keys.
type GroupSpec struct {
	// ShownByAll has a key that was made or imported answered when all members that have a
	// process show it. Else one that has it suffices.
	ShownByAll bool
	// ShowTimeout is how long they may take to show it, before that is
	// [backends.Lost]. 0: 20 s.
	ShowTimeout time.Duration
}

// MaxMembers is how many a Group has at most.
const MaxMembers = 16

// members are some of a Group, one bit each.
type members uint32

func (m members) has(i int) bool { return m&(1<<i) != 0 }

// StartGroup starts a Host for each member, as [Start] does. They are closed and reloaded
// one by one, see [Group.Hosts].
func StartGroup(ctx context.Context, group GroupSpec, specs []Spec) (*Group, error) {
	if len(specs) > MaxMembers {
		return nil, errors.New("too many members")
	}
	if group.ShowTimeout <= 0 {
		group.ShowTimeout = 20 * time.Second
	}
	g := &Group{traffic: newTraffic(), spec: group, hosts: make([]*Host, len(specs))}
	g.Calls = Calls{g}
	changed := make(chan struct{})
	g.changed.Store(&changed)
	for i, spec := range specs {
		var err error
		if g.hosts[i], err = start(ctx, spec, g.traffic, g); err != nil {
			for _, h := range g.hosts[:i] {
				_ = h.Close(ctx)
			}
			return nil, err
		}
	}
	return g, nil
}

// Hosts are those of the members, in the order of their specifications.
func (g *Group) Hosts() []*Host { return g.hosts }

// wake wakes who waits for a process.
func (g *Group) wake() {
	next := make(chan struct{})
	close(*g.changed.Swap(&next))
}

// do implements [maker].
func (g *Group) do(ctx context.Context, a *attempt, r *stream.Row, in, out any) error {
	return g.make(ctx, g, a, r, in, out)
}

// logger implements [target].
func (g *Group) logger() *slog.Logger { return g.hosts[0].logger() }

// elsewhere implements [target]: a member that does not show the key, or has no room for
// the call, is not asked again. A key that it may have made is not made on another one: there
// would be two with one CKA_ID.
func (g *Group) elsewhere(a *attempt, answer error) bool {
	code := backends.CodeOf(answer)
	if code != backends.KeyMissing && code != backends.Busy || a.row.MakesKey() && backends.Doubtful(answer) {
		return false
	}
	a.asked |= 1 << a.at
	if a.answer == nil || code == backends.Busy {
		a.answer = answer // what a busy member has is not known
	}
	return true
}

// process implements [target].
func (g *Group) process(ctx context.Context, a *attempt) (*process, *state, error) {
	p, st := g.pick(a)
	if p != nil {
		return p, st, nil
	}
	if a.asked != 0 {
		return nil, nil, g.unanswered(a)
	}
	t := time.NewTimer(g.hosts[0].state.Load().spec.WaitTimeout)
	defer t.Stop()
	return g.acquire(ctx, a, t.C)
}

// pick chooses the process for a call, nil if none can be asked.
func (g *Group) pick(a *attempt) (best *process, at *state) {
	first, least := 0, math.MaxInt
	changes := a.row.MakesKey() || a.row == stream.DestroyKey.Row
	if !changes {
		first = int(g.turn.Add(1) % uint32(len(g.hosts)))
	}
	for n := range g.hosts {
		i := (first + n) % len(g.hosts)
		st := g.hosts[i].state.Load()
		if a.asked.has(i) || st.process == nil || !st.process.usable() {
			continue
		}
		if changes {
			a.at = i
			return st.process, st
		}
		if calls := st.process.link.InFlight(); calls < least {
			best, at, a.at, least = st.process, st, i, calls
		}
	}
	return best, at
}

// unanswered is the error of a call that no member can do that could be asked. That a key
// is missing is not known as long as another one may show it that has been away for a
// moment only.
func (g *Group) unanswered(a *attempt) error {
	if backends.CodeOf(a.answer) != backends.KeyMissing {
		return a.answer
	}
	for i, h := range g.hosts {
		if !a.asked.has(i) && !h.Away() {
			return backends.Errorf(backends.Lost, "plugin %s has no process now, and the others do not show the key: %v", h.state.Load().spec.Name, a.answer)
		}
	}
	return a.answer
}

// acquire waits until a member has a process, or none is expected to have one soon. Its
// error is one that callers may repeat, if any member has such a one.
func (g *Group) acquire(ctx context.Context, a *attempt, timeout <-chan time.Time) (*process, *state, error) {
	for {
		changed := *g.changed.Load()
		if p, st := g.pick(a); p != nil {
			return p, st, nil
		}
		var refused error
		waits := false
		for _, h := range g.hosts {
			err := h.state.Load().refuses()
			waits = waits || err == nil
			if refused == nil || backends.CodeOf(err) == backends.Lost {
				refused = err
			}
		}
		if !waits {
			return nil, nil, refused
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, expired(ctx)
		case <-timeout:
			return nil, nil, backends.Errorf(backends.Lost, "none of %d members came back in time, such as %s", len(g.hosts), g.hosts[0].state.Load().spec.Name)
		}
	}
}

// Wait waits until a member serves, and returns nil, or none is known to, and returns why.
func (g *Group) Wait(ctx context.Context) error {
	_, _, err := g.acquire(ctx, &attempt{row: stream.Info.Row}, nil)
	return err
}

// Away reports whether that of every member is: see [Host.Away].
func (g *Group) Away() bool {
	for _, h := range g.hosts {
		if !h.Away() {
			return false
		}
	}
	return true
}

// Phase is that of the member that is best off.
func (g *Group) Phase() Phase {
	best := g.hosts[0].Phase()
	for _, h := range g.hosts {
		switch h.Phase() {
		case Ready:
			return Ready
		case Starting:
			best = Starting
		default:
		}
	}
	return best
}

// Renew swaps the processes of all members that have one: see [Host.Renew].
func (g *Group) Renew(ctx context.Context) error {
	err := error(backends.Errorf(backends.Lost, "no member has a process now"))
	for _, h := range g.hosts {
		if h.Phase() != Ready {
			continue
		}
		if failed := h.Renew(ctx); failed != nil {
			return failed
		}
		err = nil
	}
	return err
}
