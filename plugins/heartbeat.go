package plugins

import (
	"context"
	"fmt"
	"time"

	"cmkd/plugins/internal/control"
	"cmkd/plugins/internal/stream"
)

// heartbeat condemns a process that does not answer, because it is stopped or
// its machine is gone, and one in which a call is stuck in the module. It also
// reports one that grows.
func (p *process) heartbeat(ctx context.Context) {
	var m memory
	tick := time.NewTicker(p.spec.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.broken:
			return
		case <-tick.C:
		}
		answer, err := p.health(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.condemn(fmt.Errorf("the process does not answer: %s", stream.Told(err.Error())))
			return
		case answer.GetOverdue() != "":
			p.link.Stuck.Store(answer.GetOverdueId())
			p.condemn(fmt.Errorf("%s is stuck in the module", stream.Told(answer.GetOverdue())))
			return
		case p.serving.Load() && m.grown(p.runner.process(), p.spec.MaxGrowth, time.Now()):
			p.wear("takes much memory")
		}
	}
}

// healthSlices is in how many parts HeartbeatTimeout passes. Each begins when the one
// before was seen to end: a machine that stands still for a while, as while it moves to
// another host, takes one of them and not the process.
const healthSlices = 5

// health asks the process for its health, and waits for as long as HeartbeatTimeout.
func (p *process) health(ctx context.Context) (*control.HealthAnswer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answered := make(chan struct{})
	defer close(answered)
	go func() {
		for range healthSlices {
			select {
			case <-answered:
				return
			case <-time.After(p.spec.HeartbeatTimeout / healthSlices):
			}
		}
		cancel(fmt.Errorf("nothing came in %v", p.spec.HeartbeatTimeout))
	}()
	answer, err := p.control.Health(ctx, &control.HealthRequest{})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return answer, err
}
