package pkcs11

import (
	"context"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// session is a read-write session of the pool (some tokens know no other
// kind). It belongs to one goroutine at a time.
type session struct {
	*cryptoki.Module
	handle cryptoki.Session
	// broken: an operation failed or was given up half-way, so the state of
	// the session is not known. It is closed, not used again.
	broken bool
	ivs    ivBuffer
}

// check makes the error of a call on s, if it failed, and marks s as broken.
func (s *session) check(call string, rv uint) error {
	if rv == p11.CKR_OK {
		return nil
	}
	s.broken = true
	return failed(call, rv)
}

// pool hands out sessions, each to one caller at a time.
type pool struct {
	ctx    *p11.Ctx
	module *cryptoki.Module
	slot   uint
	// room holds one value for each session that may still be in use.
	room chan struct{}

	mu     sync.Mutex // guards idle, open and closed
	idle   []*session
	open   int
	closed bool
}

func newPool(ctx *p11.Ctx, module *cryptoki.Module, slot uint, size int) *pool {
	p := &pool{ctx: ctx, module: module, slot: slot, room: make(chan struct{}, size)}
	for range size {
		p.room <- struct{}{}
	}
	return p
}

// take waits for a session until ctx ends.
func (p *pool) take(ctx context.Context) (*session, error) {
	if err := expired(ctx); err != nil {
		return nil, err
	}
	select {
	case <-p.room:
	default:
		select {
		case <-p.room:
		case <-ctx.Done():
			return nil, expired(ctx)
		}
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.room <- struct{}{}
		return nil, backends.Errorf(backends.Lost, "the token is closed")
	}
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.open++
	p.mu.Unlock()

	h, err := p.ctx.OpenSession(p.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		p.mu.Lock()
		p.open--
		p.mu.Unlock()
		p.room <- struct{}{}
		return nil, failure("C_OpenSession", err)
	}
	return &session{Module: p.module, handle: cryptoki.Session(h)}, nil
}

// give takes a session back, or closes it.
func (p *pool) give(s *session, reusable bool) {
	p.mu.Lock()
	if reusable && !p.closed {
		p.idle = append(p.idle, s)
		p.mu.Unlock()
		p.room <- struct{}{}
		return
	}
	p.open--
	p.mu.Unlock()
	p.discard(s)
	p.room <- struct{}{}
}

func (p *pool) discard(s *session) {
	s.ivs.clear()
	// Nothing is left to do about a session that does not close: it is not
	// used again, and a token that keeps it is replaced with the process.
	_ = p.ctx.CloseSession(p11.SessionHandle(s.handle))
}

// count returns how many sessions are open.
func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// close waits for the sessions in use and closes all. It reports whether they
// came back before ctx ended.
func (p *pool) close(ctx context.Context) bool {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.open -= len(idle)
	p.mu.Unlock()
	for _, s := range idle {
		p.discard(s)
	}
	for range cap(p.room) {
		select {
		case <-p.room:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// withSession runs do with a session of its own. The session is closed if a
// call on it failed or do panicked; the session objects that do made on it and
// did not destroy go with it.
func (t *Token) withSession(ctx context.Context, do func(s *session) error) error {
	s, err := t.sessions.take(ctx)
	if err != nil {
		return err
	}
	finished := false
	defer func() { t.sessions.give(s, finished && !s.broken) }()
	err = do(s)
	finished = true
	return err
}

// ivBuffer holds random bytes of the token for IVs, so that a call to the
// token is needed once in 85 encryptions.
type ivBuffer struct {
	random [85 * ivLength]byte
	left   int
}

const ivLength = 12

// iv fills iv with a fresh 96-bit IV from the token's random number generator
// (NIST SP 800-38D, section 8.2.2). None is given out twice.
func (s *session) iv(iv []byte) error {
	b := &s.ivs
	if b.left == 0 {
		if err := s.check("C_GenerateRandom", s.GenerateRandom(s.handle, b.random[:])); err != nil {
			return err
		}
		b.left = len(b.random)
	}
	copy(iv, b.random[len(b.random)-b.left:])
	b.left -= ivLength
	return nil
}

func (b *ivBuffer) clear() {
	clear(b.random[:])
	b.left = 0
}
