package plugins

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"cmkd/backends"
)

const (
	// A process that does not start is tried again after firstBackoff, then
	// after twice the time, up to maxBackoff: a token that comes back is in
	// use again within that and its opening time.
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 2 * time.Second
	// refusedBackoff is between processes on a token that [Spec.Compare] refuses: each
	// logs in, and looks at all of the token.
	refusedBackoff = 5 * time.Second
	// After failedStarts in a row calls are not kept waiting any more.
	failedStarts = 3

	// A process that did start and was lost is replaced at once. If that
	// happens more than briskRestarts times in a row, each within shortLife,
	// every further one waits for restartPause.
	briskRestarts = 5
	shortLife     = 10 * time.Second
	restartPause  = 250 * time.Millisecond
)

// supervisor owns the processes of a Host. All its methods run in the one
// goroutine of run.
type supervisor struct {
	host *Host
	spec *Spec
	log  hclog.Logger

	current  *process
	failures int // starts in a row that failed
	brisk    int // processes in a row that had a short life
	restarts int
	unbegun  int // starts that failed, of all time
	last     error
	lastAt   time.Time
	refusal  string           // why the token was refused, which was logged; "" if it was not since
	gone     time.Time        // since when there is no process; zero: there is one
	retry    <-chan time.Time // when to start the next process; nil: not at all

	leaving sync.WaitGroup  // processes that are being drained
	drain   context.Context // ends when close gives up waiting for them
	cut     context.CancelFunc
}

func (s *supervisor) run() {
	defer close(s.host.ended)
	s.drain, s.cut = context.WithCancel(context.Background())
	defer s.cut()
	s.launch()
	for {
		var broken <-chan struct{}
		var worn <-chan string
		if s.current != nil {
			broken, worn = s.current.broken, s.current.worn
		}
		select {
		case <-broken:
			s.replace()
		case why := <-worn:
			s.renew(why)
		case <-s.retry:
			s.launch()
		case r := <-s.host.reloads:
			if r.spec == nil {
				r.done <- s.again()
			} else {
				r.done <- s.reload(r.spec)
			}
		case ctx := <-s.host.closing:
			s.close(ctx)
			return
		}
	}
}

// publish stores the next state and wakes who waits for it.
func (s *supervisor) publish(phase Phase, err error) {
	old := s.host.state.Load()
	s.host.state.Store(&state{
		phase: phase, spec: s.spec, process: s.current, err: err, last: s.last, lastAt: s.lastAt,
		restarts: s.restarts, failedStarts: s.unbegun, since: time.Now(), gone: s.gone, changed: make(chan struct{}),
	})
	close(old.changed)
	if g := s.host.group; g != nil {
		g.wake()
	}
}

// launch starts a process where there is none.
func (s *supervisor) launch() {
	s.retry = nil
	p, err := launch(s.host.ctx, s.host.spawner, s.spec, s.log)
	if err != nil {
		s.failed(err)
		return
	}
	s.serve(p)
}

// serve makes p the process that calls go to.
func (s *supervisor) serve(p *process) {
	s.current, s.failures, s.retry, s.gone, s.refusal = p, 0, nil, time.Time{}, ""
	s.spec.Token.seen()
	s.publish(Ready, nil)
	s.spec.Logger.Info("plugin started", "pid", p.runner.process(), "took", time.Since(p.started).Round(time.Millisecond).String())
}

// failed schedules the next start, except after a refused PIN: tokens lock.
func (s *supervisor) failed(err error) {
	if s.host.ctx.Err() != nil {
		return // closing
	}
	s.last, s.lastAt = err, time.Now()
	if backends.CodeOf(err) == backends.LoginFailed {
		s.retry = nil
		s.spec.Token.seen() // it has answered
		s.publish(LoginFailed, err)
		s.spec.Logger.Error("the token refused the PIN; it will not be tried again until the configuration is reloaded", "error", err)
		return
	}
	s.spec.Token.lost(s.host, s.lastAt)
	backoff := min(maxBackoff, firstBackoff<<min(s.failures, 16))
	s.failures++
	s.unbegun++
	if _, refused := errors.AsType[*refusedError](err); refused {
		s.retry = time.After(refusedBackoff)
		s.publish(Refused, backends.Errorf(backends.Lost, "the token of plugin %s is refused: %v", s.spec.Name, err))
		if text := err.Error(); text != s.refusal { // else it would be said every few seconds, for as long as nobody exchanges it
			s.refusal = text
			s.spec.Logger.Error("the token is refused, and will be compared again and again", "error", err, "every", refusedBackoff.String())
		}
		return
	}
	s.refusal = ""
	s.retry = time.After(backoff)
	if s.failures < failedStarts {
		s.publish(Starting, nil)
	} else {
		s.publish(Failed, backends.Errorf(backends.Lost, "plugin %s is not available: %v", s.spec.Name, err))
	}
	s.spec.Logger.Warn("plugin did not start", "error", err, "attempt", s.failures, "next", backoff.String())
}

// replace ends a lost process and schedules the next one.
func (s *supervisor) replace() {
	p := s.current
	s.spec.Logger.Warn("plugin lost", "pid", p.runner.process(), "reason", p.reason)
	s.current, s.last, s.lastAt, s.gone = nil, p.reason, time.Now(), time.Now()
	s.restarts++
	if s.brisk++; time.Since(p.started) >= shortLife {
		s.brisk = 1
	}
	s.publish(Starting, nil)
	s.spec.Token.lost(s.host, s.gone)
	p.kill()
	pause := time.Duration(0)
	if s.brisk > briskRestarts {
		pause = restartPause
	}
	s.retry = time.After(pause)
}

// renew swaps a process that is not as good as a new one for one.
func (s *supervisor) renew(why string) {
	s.spec.Logger.Info("plugin "+why+": another takes its place", "pid", s.current.runner.process())
	if err := s.reload(s.spec); err != nil {
		s.spec.Logger.Warn("plugin stays, although it "+why, "error", err)
		s.publish(Ready, nil) // for those who wait for another
	}
}

// again is [Host.Renew].
func (s *supervisor) again() error {
	if s.current == nil || !s.current.usable() {
		return backends.Errorf(backends.Lost, "plugin %s has no process now", s.spec.Name)
	}
	return s.reload(s.spec)
}

// reload is [Host.Reload].
func (s *supervisor) reload(spec *Spec) error {
	p, err := launch(s.host.ctx, s.host.spawner, spec, newHostLog(spec.Logger))
	if err != nil && s.current != nil {
		return err
	}
	s.spec, s.log, s.failures, s.refusal = spec, newHostLog(spec.Logger), 0, ""
	if err != nil {
		s.failed(err)
		return err
	}
	old := s.current
	s.serve(p)
	if old != nil {
		s.leaving.Go(func() {
			ctx, cancel := context.WithTimeout(s.drain, old.spec.DrainTimeout)
			defer cancel()
			old.stop(ctx)
		})
	}
	return nil
}

// close ends everything; see [Host.Close].
func (s *supervisor) close(ctx context.Context) {
	defer context.AfterFunc(ctx, s.cut)()
	old := s.current
	s.current = nil
	s.publish(Closed, errClosed)
	if old != nil {
		old.stop(ctx)
	}
	s.leaving.Wait()
	s.host.spawner.close()
}

// waitExit reports whether the process was reaped in time.
func (p *process) waitExit(timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-p.runner.exited:
		return true
	case <-t.C:
		return false
	}
}
