package token

import (
	"context"
	"fmt"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// Session is a read-write session of the pool (some tokens know no other
// kind). It belongs to one goroutine at a time.
type Session struct {
	*cryptoki.Module
	Handle cryptoki.Session
	// broken: an operation failed or was given up half-way, so the state of
	// the session is not known. It is closed, not used again.
	Broken bool
	// expiry, of a read-only session, is when another is tried in its place: the token may be
	// writable again. Zero: never.
	expiry time.Time
	ivs    ivBuffer
	lastIV [IVLength]byte // that the token made; zero: none yet
}

// Check makes the error of a call on s, if it failed, and marks s as broken.
func (s *Session) Check(call string, rv uint) error {
	if rv == p11.CKR_OK {
		return nil
	}
	s.Broken = true
	return Failed(call, rv)
}

// expired reports whether another session is to be tried in its place.
func (s *Session) expired() bool { return !s.expiry.IsZero() && time.Now().After(s.expiry) }

// pool hands out sessions, each to one caller at a time.
type pool struct {
	token *Token
	// room holds one value for each session that may still be in use.
	room chan struct{}

	Mu     sync.Mutex // guards what follows
	idle   []*Session
	open   int
	closed bool
	// withheld are the values of room for which the token had no sessions, until
	// again. short: it has had none since it last opened one.
	withheld int
	Again    time.Time
	short    bool
	given    uint64 // how often a session came back
	asking   bool   // ask is going to run
}

const (
	// shortPause is the time after which a token that had no further session is
	// asked for one again: another program may have closed its own.
	shortPause = 2 * time.Second
	// shortWait is how long a call waits for a session of a token that has few;
	// then its caller is told to come again.
	shortWait = 2 * time.Second
	// shortPoll is the time between two tries while not one session is open.
	shortPoll = 50 * time.Millisecond
)

func newPool(t *Token, size int) *pool {
	p := &pool{token: t, room: make(chan struct{}, size)}
	for range size {
		p.room <- struct{}{}
	}
	return p
}

// take waits for a session until ctx ends. If the token has fewer sessions than
// there are calls, they wait for those that are open, shortWait at most. The error
// is [backends.Busy] if others got theirs meanwhile, and [backends.Timeout] if
// those that have one seem to be stuck.
func (p *pool) take(ctx context.Context) (*Session, error) {
	if err := Expired(ctx); err != nil {
		return nil, err
	}
	var late <-chan time.Time
	given := p.comings()
	for {
		short := p.restore()
		select {
		case <-p.room:
		default:
			if short && late == nil {
				late = time.After(shortWait)
			}
			select {
			case <-p.room:
			case <-late:
				return nil, p.busy()
			case <-ctx.Done():
				if short || p.comings() != given {
					return nil, p.busy()
				}
				return nil, Expired(ctx)
			}
		}
		s, err := p.session()
		if backends.CodeOf(err) != backends.Busy {
			return s, err
		}
		if late == nil {
			late = time.After(shortWait)
		}
		if !p.refused() {
			continue
		}
		select { // nothing is open that could come back
		case <-time.After(shortPoll):
		case <-late:
			return nil, p.busy()
		case <-ctx.Done():
			return nil, p.busy()
		}
	}
}

// Session returns an idle session, or opens one. It gives back the value of room
// that its caller has taken if it fails, except with [backends.Busy].
func (p *pool) session() (*Session, error) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.closed {
		p.room <- struct{}{}
		return nil, backends.Errorf(backends.Lost, "the token is closed")
	}
	for n := len(p.idle); n > 0; n = len(p.idle) {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		if !s.expired() {
			return s, nil
		}
		p.open--
		p.Mu.Unlock()
		p.discard(s)
		p.Mu.Lock()
	}
	s, err := p.another()
	if err != nil {
		if backends.CodeOf(err) != backends.Busy {
			p.room <- struct{}{}
		}
		return nil, err
	}
	if p.short {
		p.Again = time.Now() // there may be more
		if p.withheld == 0 {
			p.enough()
		}
	}
	return s, nil
}

// another opens a session and counts it, with mu held but for the call of the token.
func (p *pool) another() (*Session, error) {
	p.open++
	p.Mu.Unlock()
	h, readOnly, err := p.token.openSession()
	p.Mu.Lock()
	if err != nil {
		p.open--
		return nil, err
	}
	opened := &Session{Module: p.token.Module, Handle: h}
	if readOnly {
		opened.expiry = time.Now().Add(shortPause)
	}
	return opened, nil
}

// refused withholds the value of room that the caller has, since the token has no
// session for it. If none is open at all the caller may try again: it reports
// true, and the value is back.
func (p *pool) refused() (none bool) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	p.short = true
	p.Again = time.Now().Add(shortPause)
	p.token.limits.begin(fewSessions, fmt.Sprintf("no further session (CKR_SESSION_COUNT): calls wait for the %d that are open", p.open))
	if !p.asking {
		p.asking = true
		time.AfterFunc(shortPause, p.ask)
	}
	if p.open == 0 || p.closed {
		p.room <- struct{}{}
		return true
	}
	p.withheld++
	return false
}

// enough ends the shortage, with mu held.
func (p *pool) enough() {
	p.short = false
	p.token.limits.end(fewSessions)
}

// ask asks the token for the sessions that it did not have, every shortPause until they are
// there: with few calls nobody else would, and the status would go on saying so.
func (p *pool) ask() {
	select {
	case <-p.room: // as a call would
		more := true
		for more {
			more = p.oneMore()
		}
		p.room <- struct{}{}
	default: // all are in use: those who wait ask
	}
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.asking = p.short && !p.closed; p.asking {
		time.AfterFunc(shortPause, p.ask)
	}
}

// oneMore opens a session for a value of room that is withheld, and reports whether
// there may be another.
func (p *pool) oneMore() bool {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.closed || !p.short {
		return false
	}
	if p.withheld == 0 && p.open == cap(p.room) {
		p.enough()
		return false
	}
	s, err := p.another()
	if err != nil {
		return false
	}
	p.idle = append(p.idle, s)
	if p.withheld > 0 {
		p.withheld--
		p.room <- struct{}{}
	}
	if p.withheld == 0 {
		p.enough()
		return false
	}
	return true
}

// restore gives back one value of room that was withheld, if it is time to ask the
// token again, and reports whether it is short of sessions.
func (p *pool) restore() (short bool) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.withheld > 0 && !p.closed && time.Now().After(p.Again) {
		p.withheld--
		p.Again = time.Now().Add(shortPause)
		p.room <- struct{}{}
	}
	return p.short
}

// busy is the error of a call that got no session.
func (p *pool) busy() error {
	return backends.Errorf(backends.Busy, "the token has no free session: %d are in use", p.count())
}

// comings counts the sessions that came back.
func (p *pool) comings() uint64 {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.given
}

// give takes a session back, or closes it.
func (p *pool) give(s *Session, reusable bool) {
	p.Mu.Lock()
	p.given++
	if reusable && !p.closed && !s.expired() {
		p.idle = append(p.idle, s)
		p.Mu.Unlock()
		p.room <- struct{}{}
		return
	}
	p.open--
	p.Mu.Unlock()
	p.discard(s)
	p.room <- struct{}{}
}

func (p *pool) discard(s *Session) {
	s.ivs.clear()
	// Nothing is left to do about a session that does not close: it is not
	// used again, and a token that keeps it is replaced with the process.
	_ = p.token.P11.CloseSession(p11.SessionHandle(s.Handle))
}

// count returns how many sessions are open.
func (p *pool) count() int {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.open
}

// Close waits for the sessions in use and closes all. It reports whether they
// came back before ctx ended.
func (p *pool) close(ctx context.Context) bool {
	p.Mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.open -= len(idle)
	taken := cap(p.room) - p.withheld
	p.Mu.Unlock()
	for _, s := range idle {
		p.discard(s)
	}
	for range taken {
		select {
		case <-p.room:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// WithSession runs do with a session of its own. The session is closed if a
// call on it failed or do panicked; the session objects that do made on it and
// did not destroy go with it.
func (t *Token) WithSession(ctx context.Context, do func(s *Session) error) error {
	s, err := t.Sessions.take(ctx)
	if err != nil {
		return err
	}
	finished := false
	defer func() { t.Sessions.give(s, finished && !s.Broken) }()
	err = do(s)
	finished = true
	return err
}

// ivBuffer holds random bytes of the token for IVs, so that a call to the
// token is needed once in 85 encryptions.
type ivBuffer struct {
	random [85 * IVLength]byte
	left   int
}

// IVLength is the length of a GCM IV in bytes.
const IVLength = 12

// IV fills iv with a fresh 96-bit IV from the token's random number generator
// (NIST SP 800-38D, section 8.2.2). None is given out twice.
func (s *Session) IV(iv []byte) error {
	b := &s.ivs
	if b.left == 0 {
		if err := s.Check("C_GenerateRandom", s.GenerateRandom(s.Handle, b.random[:])); err != nil {
			return err
		}
		b.left = len(b.random)
	}
	copy(iv, b.random[len(b.random)-b.left:])
	b.left -= IVLength
	return nil
}

// Fresh reports whether an IV that the token made is one, and is not that of the session's call before.
func (s *Session) Fresh(iv []byte) bool {
	made := [IVLength]byte(iv)
	if made == s.lastIV || made == [IVLength]byte{} { // left as it was
		s.Broken = true
		return false
	}
	s.lastIV = made
	return true
}

func (b *ivBuffer) clear() {
	clear(b.random[:])
	b.left = 0
}
