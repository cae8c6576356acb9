package plugins

import (
	"bytes"
	"context"
	"sync"
	"time"

	"cmkd/backends"
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

func (h *Host) prove(ctx context.Context) error {
	st := h.state.Load()
	p := st.process
	if p == nil || !p.usable() {
		return backends.Errorf(backends.Lost, "plugin %s has no process now", st.spec.Name)
	}
	if !p.proving.TryLock() {
		return backends.Errorf(backends.Busy, "plugin %s is asking its token already", st.spec.Name)
	}
	defer p.proving.Unlock()
	in, out := &backends.InfoRequest{Prove: true}, new(backends.InfoAnswer)
	var request bytes.Buffer
	if err := encoding.MarshalToBuffer(in, &request); err != nil {
		return backends.Errorf(backends.Internal, "the %s request does not encode", info.name)
	}
	err := p.call(ctx, info.row, flowOf(ctx, in), request.Bytes(), out)
	switch {
	case err == nil:
		now := time.Now()
		h.proven.Store(&now)
		st.spec.Token.seen()
	case ctx.Err() == nil && lostToken(err):
		p.condemn(err)
	}
	return err
}
