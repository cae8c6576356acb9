package plugins

import (
	"bytes"
	"context"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// Token is a token that the Hosts of several plugins serve. What one of them finds out
// about it counts for all: one that is without its process has the others see whether
// the token still answers them, and if it does not, it has been away for all since the
// first of them lost it. The zero Token is ready for use.
type Token struct {
	mu    sync.Mutex // guards all below
	hosts []*Host
	since time.Time // when it was lost; zero: it has answered since
}

// join adds a Host.
func (t *Token) join(h *Host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hosts = append(t.hosts, h)
}

// lost is called by a Host without a process, as often as it tries to start one.
func (t *Token) lost(by *Host, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		t.since = at
	}
	for _, h := range t.hosts {
		if h != by {
			go func() { _ = h.prove(h.ctx) }() // it is lost itself if the token does not answer
		}
	}
}

// seen says that the token has answered.
func (t *Token) seen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since = time.Time{}
}

// gone is since when a Host has been without the token, which has been without a process
// since at: no later than the token has been away.
func (t *Token) gone(at time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.since.IsZero() && t.since.Before(at) {
		return t.since
	}
	return at
}

// provenTime is for how long a proof is good enough for those who only want to know.
const provenTime = time.Second

// Prove has the token answer, unless it has within the last second. If it does not, the
// process is replaced, as if a call had found that out. The error says why there is no
// proof; it is that of ctx if the token took too long.
func (h *Host) Prove(ctx context.Context) error {
	if last := h.proven.Load(); last != nil && time.Since(*last) < provenTime {
		return nil
	}
	return h.prove(ctx)
}

// prove asks the token, or waits for the answer to who asks already. One that is left
// alone by ctx goes on: if it hangs, it is overdue like any call.
func (h *Host) prove(ctx context.Context) error {
	st := h.state.Load()
	p := st.process
	if p == nil || !p.usable() {
		return backends.Errorf(backends.Lost, "plugin %s has no process now", st.spec.Name)
	}
	select {
	case answer := <-p.proofs.DoChan("", func() (any, error) { return nil, h.askToken(p) }):
		return answer.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askToken has the token of the process answer, and condemns the process if it is lost.
func (h *Host) askToken(p *process) error {
	in, out := &backends.InfoRequest{Prove: true}, new(backends.InfoAnswer)
	var request bytes.Buffer
	if err := stream.Encoding.MarshalToBuffer(in, &request); err != nil {
		return backends.Errorf(backends.Internal, "the %s request does not encode", stream.Info.Name)
	}
	err := p.call(h.ctx, stream.Info.Row, stream.FlowOf(h.ctx, in), request.Bytes(), out)
	switch {
	case err == nil:
		now := time.Now()
		h.proven.Store(&now)
		p.spec.Token.seen()
	case backends.CodeOf(err) == backends.Lost: // Timeout may be for want of a session
		p.condemn(err)
	}
	return err
}
