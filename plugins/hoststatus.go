package plugins

import (
	"time"
)

// away reports whether there has been no process for so long that it counts as
// lasting. A first start that takes long has not failed.
func (st *state) away(now time.Time) bool {
	return !st.gone.IsZero() && st.last != nil && (st.phase == Starting || st.phase == Failed || st.phase == Refused) &&
		now.Sub(st.spec.Token.gone(st.gone)) >= st.spec.AwayAfter
}

// Away reports whether calls are refused for a reason that lasts: there has been no
// process for a while (see [Spec]), the PIN was refused, or the Host is closed.
func (h *Host) Away() bool {
	st := h.state.Load()
	return st.phase == LoginFailed || st.phase == Closed || st.away(time.Now())
}

// Phase is the phase of [Status], at the cost of one load.
func (h *Host) Phase() Phase {
	st := h.state.Load()
	if st.process != nil && !st.process.usable() {
		return Starting
	}
	return st.phase
}

// Status describes a plugin for operators.
type Status struct {
	Name  string
	Phase Phase
	// Since is when the phase began.
	Since time.Time
	// Restarts counts the processes that were replaced because they were lost.
	Restarts int
	// FailedStarts counts those that did not start, or could not open the token.
	FailedStarts int
	// LastError is why the last process was lost or did not start, at LastErrorAt.
	// Ten minutes after another one has begun to serve it is over, and "".
	LastError   string
	LastErrorAt time.Time
	// PID is the process now serving, 0 if there is none.
	PID int
	// InFlight is the number of calls under way in it.
	InFlight int
	// Hanging says which creations of keys take too long, or have and are
	// refused for a while; "" if none.
	Hanging string
}

// lastErrorTime is how long the last error is told of that has come to an end.
const lastErrorTime = 10 * time.Minute

// Status returns what is known without asking the plugin; its sessions are in
// [Host.Info].
func (h *Host) Status() Status {
	st := h.state.Load()
	out := Status{Name: st.spec.Name, Phase: h.Phase(), Since: st.since, Restarts: st.restarts, FailedStarts: st.failedStarts}
	out.Hanging = h.hanging(st.spec, time.Now())
	if st.last != nil && (out.Phase != Ready || time.Since(st.since) < lastErrorTime) {
		out.LastError, out.LastErrorAt = st.last.Error(), st.lastAt
	}
	if p := st.process; p != nil {
		out.PID = p.runner.process()
		out.InFlight = p.link.InFlight()
	}
	return out
}
