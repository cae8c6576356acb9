package plugins

import (
	"context"
	"errors"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// attempt is a call on its way to an answer.
type attempt struct {
	traffic *traffic
	to      target
	row     *stream.Row
	flow    stream.Flow
	request []byte
	out     any
	cut     cutID
	mayCut  bool

	spent    int  // processes that had no room for it
	lost     int  // processes that were lost with it
	blame    int  // of those, how many it was the cause of
	stuck    bool // the last one because it got stuck in the module
	isolated bool // it holds alone

	// Of a call on the members of a Group:
	asked  members // those that have answered that they cannot do it, and
	answer error   // what the last one said, of busy ones if there are any
	at     int     // the member that it was sent to last
}

// refused asks the breaker.
func (a *attempt) refused() error {
	if !a.mayCut {
		return nil
	}
	return a.traffic.breaker.check(a.cut, time.Now())
}

func (a *attempt) run(ctx context.Context) error {
	for a.lost < maxTries && a.blame < maxBlame {
		if a.lost >= 2 && !a.isolated {
			select {
			case a.traffic.alone <- struct{}{}:
				a.isolated = true
			case <-ctx.Done():
				return expired(ctx)
			}
			if err := a.refused(); err != nil && !a.row.Creates() {
				return err // those before it were cut off meanwhile
			}
		}
		p, st, err := a.to.process(ctx, a)
		if err != nil {
			return err
		}
		err = a.send(ctx, p)
		switch {
		case err == nil:
			p.answered.Store(true)
			p.starved.end()
			if a.row.Creates() {
				a.traffic.breaker.answered(a.cut)
			}
			return nil
		case errors.Is(err, stream.ErrRetired):
			// It was not sent, and another process is on its way.
			select {
			case <-p.broken:
			case <-st.changed:
			}
		case errors.Is(err, stream.ErrStuck):
			a.note(true)
			a.stuck = true
		case errors.Is(err, stream.ErrGone):
			a.note(a.isolated && p.crashed())
		case ctx.Err() != nil:
			return expired(ctx)
		case errors.Is(err, stream.ErrPast):
			return stream.ErrLate
		case a.to.elsewhere(a, err):
			if backends.CodeOf(err) == backends.Busy {
				p.starve(time.Now())
			}
		case backends.CodeOf(err) == backends.Busy:
			p.starve(time.Now())
			return err
		case backends.CodeOf(err) == backends.Spent:
			if err := a.renewed(ctx, p, st, err); err != nil {
				return err
			}
		case lostToken(err):
			p.condemn(err)
			a.note(p.answered.Load())
		default:
			return err
		}
	}
	return a.fail()
}

// renewed waits until another process has taken the place of one that is spent, or the
// supervisor has failed to start one.
func (a *attempt) renewed(ctx context.Context, p *process, st *state, why error) error {
	if a.spent++; a.spent > maxSpent {
		return backends.Errorf(backends.Lost, "%d plugin processes had no room for the call to %s: %v", a.spent, a.row.Name, why)
	}
	if a.row.MakesKey() && backends.Doubtful(why) {
		a.traffic.lost.Add(1)
	}
	p.wear(spentProcess)
	select {
	case <-st.changed:
	case <-p.broken:
	case <-ctx.Done():
		return expired(ctx)
	}
	return nil
}

// note counts a process that was lost with the call. It was the cause if it was
// answered so by a process that answers others, if it got stuck, or if the
// process crashed and it was the only suspect.
func (a *attempt) note(cause bool) {
	a.lost++
	if a.row.MakesKey() {
		a.traffic.lost.Add(1)
	}
	a.stuck = false
	if cause {
		a.blame++
	}
}

// fail is the end of a call that processes were lost with.
func (a *attempt) fail() error {
	if a.blame >= maxBlame && a.mayCut && (a.row.Creates() || !a.stuck) {
		until := a.traffic.breaker.lost(a.cut, time.Now())
		a.to.logger().Error("calls that crash plugin processes are refused for a while", "method", a.row.Name,
			"uid", a.flow.Caller, "key", a.cut.key.String(), "spec", a.cut.spec, "until", timeText(until))
	}
	if a.stuck {
		return backends.Errorf(backends.Timeout, "%s was stuck in the module of %d plugin processes", a.row.Name, a.lost)
	}
	return backends.Errorf(backends.Lost, "%d plugin processes were lost with the call to %s", a.lost, a.row.Name)
}

// lostToken says whether an answer of the backend means that its process is
// of no more use.
func lostToken(err error) bool {
	code := backends.CodeOf(err)
	return code == backends.Lost || code == backends.Timeout
}

// expired is the error of a call whose caller has given up.
func expired(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return backends.Errorf(backends.Timeout, "the call was canceled")
	}
	return backends.Errorf(backends.Timeout, "the deadline passed before the token answered")
}
