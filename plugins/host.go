package plugins

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

const (
	// maxTries is how often a call is sent before its caller gets
	// [backends.Lost]: each time the process was lost with it.
	maxTries = 5
	// maxBlame is how often it is sent if each time it was the cause itself: it
	// was answered that the token is lost, or got stuck in the module.
	maxBlame = 2
	// maxSpent is how many processes in a row may be spent, before a call's caller gets
	// [backends.Lost]: others may fill each of them first.
	maxSpent = 8
)

// Host runs one plugin and keeps it running: a process that ends, hangs, or
// reports that its token is lost is replaced, and the calls that it had are
// repeated on the next one, so that callers see a delay and no error. It
// implements every interface of package backends; what the plugin does not do
// answers [backends.Unsupported].
type Host struct {
	Calls
	*traffic
	group   *Group // nil: it is not a member of one
	spawner *spawner
	state   atomic.Pointer[state]     // stored by the supervisor only
	proven  atomic.Pointer[time.Time] // when the token answered last that was asked to

	ctx     context.Context // of the supervisor
	cancel  context.CancelFunc
	reloads chan reload
	closing chan context.Context
	ended   chan struct{} // closed when the supervisor has ended
	closer  sync.Once
}

// traffic is what is known of the calls of a [Host], or of all that are in a [Group].
type traffic struct {
	// alone is held by a call that has been lost twice: of the calls that a
	// process took with it one may be the cause, and it must not take the
	// others with it again.
	alone   chan struct{}
	breaker breaker
	lost    atomic.Int64 // see Losses
	// creating are the creations under way, for Status.
	creating inProgress
}

func newTraffic() *traffic { return &traffic{alone: make(chan struct{}, 1)} }

// target is where the calls go that an attempt makes.
type target interface {
	// process returns the process to send the call to, and the state of its Host.
	// While there is none, it waits.
	process(ctx context.Context, a *attempt) (*process, *state, error)
	// elsewhere says of an answer whether the call is to be made on another process.
	elsewhere(a *attempt, answer error) bool
	logger() *slog.Logger
}

// Phase is what a plugin is doing.
type Phase string

// The phases.
const (
	Starting    Phase = "starting"     // the first process, or the next one
	Ready       Phase = "ok"           // serving
	Failed      Phase = "failed"       // did not start several times; it is tried on
	Refused     Phase = "refused"      // [Spec.Compare] refuses the token; it is tried on
	LoginFailed Phase = "login failed" // the PIN was refused; waits for Reload
	Closed      Phase = "closed"
)

// state is an immutable moment in the life of a Host.
type state struct {
	phase    Phase
	spec     *Spec
	process  *process // in Ready only; may be broken already
	err      error    // what calls are answered without a process; nil: they wait
	last     error    // why the last process ended or did not start
	lastAt   time.Time
	restarts int
	// failedStarts is how often a process did not start.
	failedStarts int
	since        time.Time
	gone         time.Time     // since when there has been no process; zero: there is one
	changed      chan struct{} // closed when the next state is stored
}

// reload asks the supervisor for [Host.Reload], or [Host.Renew].
type reload struct {
	spec *Spec      // nil: as it is
	done chan error // buffered
}

// Start starts a plugin and its supervision. It fails only if spec can never
// work; a plugin that cannot open its token is tried again until [Host.Close].
// [Host.Wait] tells how it went. ctx bounds nothing but the call itself.
func Start(ctx context.Context, spec Spec) (*Host, error) {
	return start(ctx, spec, newTraffic(), nil)
}

func start(ctx context.Context, spec Spec, calls *traffic, group *Group) (*Host, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := &Host{
		traffic: calls,
		group:   group,
		spawner: newSpawner(),
		reloads: make(chan reload),
		closing: make(chan context.Context, 1),
		ended:   make(chan struct{}),
	}
	h.Calls = Calls{h}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	h.state.Store(&state{phase: Starting, spec: &spec, since: time.Now(), gone: time.Now(), changed: make(chan struct{})})
	s := &supervisor{host: h, spec: &spec, log: newHostLog(spec.Logger), gone: time.Now()}
	spec.Token.join(h)
	go s.run()
	return h, nil
}

// Wait waits until the plugin serves, and returns nil, or is known not to, and
// returns why.
func (h *Host) Wait(ctx context.Context) error {
	_, _, err := h.acquire(ctx, nil)
	if st := h.state.Load(); err != nil && st.phase == Failed {
		if why, ok := errors.AsType[*backends.Error](st.last); ok {
			return why // nothing is lost that was there
		}
	}
	return err
}

// Ready waits until the plugin serves, however often it fails to start before.
// It returns an error when ctx ends or the Host is closed.
func (h *Host) Ready(ctx context.Context) error {
	for {
		st := h.state.Load()
		switch {
		case st.process != nil && st.process.usable():
			return nil
		case st.phase == Closed:
			return errClosed
		}
		select {
		case <-st.changed:
		case <-ctx.Done():
			return expired(ctx)
		}
	}
}

// Losses counts how often a CreateKey or ImportKey was sent again that the token may have gone
// on with: a process was lost with it, or was spent after an attempt that may have made the key.
func (t *traffic) Losses() int { return int(t.lost.Load()) }

// do implements [maker].
func (h *Host) do(ctx context.Context, a *attempt, r *stream.Row, in, out any) error {
	return h.make(ctx, h, a, r, in, out)
}

// make makes a call in the memory of a: it sends it again when the process was lost with it, until
// it is answered, ctx ends or its tries are used up. The error is a
// [backends.Error].
func (t *traffic) make(ctx context.Context, to target, a *attempt, r *stream.Row, in, out any) error {
	request := requests.Get().(*bytes.Buffer)
	defer recycle(request)
	stream.ReserveFor(request, in)
	if err := stream.Encode(request, in); err != nil {
		return backends.Errorf(backends.Internal, "the %s request does not encode", r.Name)
	}
	*a = attempt{traffic: t, to: to, row: r, flow: stream.FlowOf(ctx, in), request: request.Bytes(), out: out}
	a.cut, a.mayCut = cutOf(r, a.flow, in)
	if err := a.refused(); err != nil {
		return err
	}
	if r.Creates() {
		defer t.breaker.release(a.cut)
		defer t.creating.end(t.creating.begin(a.cut))
	}
	err := a.run(ctx)
	if a.isolated {
		<-t.alone
	}
	return err
}

// elsewhere implements [target].
func (h *Host) elsewhere(*attempt, error) bool { return false }

// logger implements [target].
func (h *Host) logger() *slog.Logger { return h.state.Load().spec.Logger }

// process implements [target].
func (h *Host) process(ctx context.Context, _ *attempt) (*process, *state, error) {
	st := h.state.Load()
	if p := st.process; p != nil && p.usable() {
		return p, st, nil
	}
	t := time.NewTimer(st.spec.WaitTimeout)
	defer t.Stop()
	return h.acquire(ctx, t.C)
}

// acquire is process with the timer made.
func (h *Host) acquire(ctx context.Context, timeout <-chan time.Time) (*process, *state, error) {
	for {
		st := h.state.Load()
		if p := st.process; p != nil && p.usable() {
			return p, st, nil
		}
		if err := st.refuses(); err != nil {
			return nil, nil, err
		}
		select {
		case <-st.changed:
		case <-ctx.Done():
			return nil, nil, expired(ctx)
		case <-timeout:
			return nil, nil, backends.Errorf(backends.Lost, "plugin %s did not come back in %v", st.spec.Name, st.spec.WaitTimeout)
		}
	}
}

// refuses is what calls are answered that find no process, nil if they wait for one.
func (st *state) refuses() error {
	if st.away(time.Now()) {
		return backends.Errorf(backends.Away, "plugin %s has been away since %s: %v", st.spec.Name, timeText(st.spec.Token.gone(st.gone)), st.last)
	}
	return st.err
}

// requests recycles the buffers of encoded requests.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// recycle wipes the buffer, which may hold plaintext.
func recycle(b *bytes.Buffer) {
	clear(b.Bytes())
	b.Reset()
	if b.Cap() <= stream.ReadBuffer {
		requests.Put(b)
	}
}

// Reload changes to another executable or configuration. The new process is
// started and opened first; then new calls go to it, and the old one ends when
// its calls have. If the new one cannot be opened, the old one stays and the
// error says why; where there is no old one, the new specification counts from
// now on. It also ends the wait after [LoginFailed].
func (h *Host) Reload(ctx context.Context, spec Spec) error {
	if err := spec.check(); err != nil {
		return err
	}
	return h.reload(ctx, &spec)
}

// Renew swaps the process for a new one, as Reload does, which has listed the token
// again. It fails where there is no process, which the supervisor sees to.
func (h *Host) Renew(ctx context.Context) error { return h.reload(ctx, nil) }

func (h *Host) reload(ctx context.Context, spec *Spec) error {
	r := reload{spec: spec, done: make(chan error, 1)}
	select {
	case h.reloads <- r:
	case <-h.ended:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errClosed answers calls after Close.
var errClosed = backends.Errorf(backends.Lost, "the plugin was stopped")

// Close refuses new calls, lets those under way finish until ctx ends, and
// ends the process and the supervision.
func (h *Host) Close(ctx context.Context) error {
	h.closer.Do(func() {
		h.closing <- ctx
		h.cancel()
	})
	<-h.ended
	return nil
}
