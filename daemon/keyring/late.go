package keyring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/store"
)

// A token that is a server, or has one in front of it, goes on with a creation whose
// plugin process was killed: its object may come after the next process has looked
// through the token in vain. So an intent of such a creation does not end with the first
// look. It is looked at again after a minute and then after twice the time each, until
// lateLimit has passed: the first time, and the last, by a process that was opened since,
// because others may not see what came (see absences). One process serves all intents
// that are due, and no call waits for them.

// lateLimit is the longest that a token is expected to go on with a creation that nobody
// waits for: several times creationTime, which is for a caller who does wait.
const lateLimit = 10 * time.Minute

// renewInterval is the least time between processes that are opened to look again, for
// each plugin: calls that fail all the time must not have it replaced all the time.
const renewInterval = time.Minute

// ErrUnanswered: a plugin process was lost while the token made something, or an attempt was
// answered as by a token that is lost. What came then may
// have been made by the next one, with that of the first still to come under the same
// CKA_ID: so neither is used, and the caller asks for another.
var ErrUnanswered = errors.New("a plugin process, or the token, was lost while the key was made")

// Late are the creations that the token may still be at.
type late struct {
	mu        sync.Mutex
	creations map[string]*lateCreation // guarded by mu; by CKA_ID
	renewed   map[server]time.Time     // guarded by mu; when a process was last opened to look
}

// maxLate is how many creations a token may be at that nobody waits for. Each has an intent, and a
// full token can make one of every call: beyond, no call makes anything in the token.
const maxLate = 1000

// lateCreation is how often one was looked at, and when it is to be looked at next.
type lateCreation struct {
	token string
	since time.Time // when it was first known to be late
	looks int
	pause Backoff
}

// server is what serves a kind of key of a token.
type server struct {
	token string
	b     Backend
}

// expect notes that the object of the intent may come later. It reports whether that is
// new. looked: it was looked for just now.
func (l *late) expect(intent *store.Intent, now time.Time, looked bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := intent.CKAID
	if l.creations[string(id)] != nil {
		return false
	}
	if l.creations == nil {
		l.creations = map[string]*lateCreation{}
	}
	c := &lateCreation{token: intent.Token, since: now}
	if looked {
		c.looks = 1
		c.pause.Failed(now)
	}
	l.creations[string(id)] = c
	return true
}

func (l *late) Expects(id []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.creations[string(id)] != nil
}

func (l *late) forget(id []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.creations, string(id))
}

// of counts those of a token.
func (l *late) of(token string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.creations {
		if c.token == token {
			n++
		}
	}
	return n
}

// prune forgets those that are not needed any more.
func (l *late) prune(needed func(id []byte) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.creations, func(id string, _ *lateCreation) bool { return !needed([]byte(id)) })
}

// due reports whether it is time to look, and what the look is: by a process that
// is opened for it, and the last one.
func (l *late) due(id []byte, now time.Time) (due, anew, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.creations[string(id)]
	if c == nil || !c.pause.Over(now) {
		return false, false, false
	}
	last = now.Sub(c.since) >= lateLimit
	return true, last || c.looks == 1, last
}

// looked notes a look.
func (l *late) looked(id []byte, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.creations[string(id)]; c != nil {
		c.looks++
		c.pause.Failed(now)
	}
}

// mayRenew reports whether a process may be opened now to look again, and notes it.
func (l *late) mayRenew(at server, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.renewed[at]; ok && now.Sub(last) < renewInterval {
		return false
	}
	if l.renewed == nil {
		l.renewed = map[server]time.Time{}
	}
	l.renewed[at] = now
	return true
}

// Answered is the error of a creation, [ErrUnanswered] if it has none but a process was lost
// with it, or the backend is unsure: losses had been lost before. The token may still be at it
// then.
func (s *Keyring) Answered(intent *store.Intent, losses int, unsure bool, err error) error {
	lost := unsure || s.Losses(intent) != losses
	if lost || unfinished(err) {
		s.Late.expect(intent, s.Now(), true)
	}
	if err == nil && lost {
		return ErrUnanswered
	}
	return err
}

// unfinished reports whether a creation that failed so may still make its object.
func unfinished(err error) bool {
	code := backends.CodeOf(err)
	return backends.Doubtful(err) || code == backends.Lost || code == backends.Timeout
}

// Losses counts the creations that processes of the plugin were lost with that serves the
// intent's object.
func (s *Keyring) Losses(intent *store.Intent) int {
	return s.Router.Losses(intent.Token, intentRoute(intent))
}

// intentRoute is the key spec whose backend has the object of the intent.
func intentRoute(intent *store.Intent) backends.KeySpec {
	return cmp.Or(intent.Route, intent.Spec)
}

// reconcileLate looks again for what came late, each intent once if it is due, and ends
// those that were looked at for long enough.
func (s *Keyring) reconcileLate(ctx context.Context, intents []*store.Intent) error {
	var errs []error
	now := s.Now()
	again := map[server][]*store.Intent{}
	var order []server
	for _, intent := range intents {
		first := s.Late.expect(intent, now, false)
		due, anew, _ := s.Late.due(intent.CKAID, now)
		switch {
		case !due:
		case anew:
			b, _, _ := s.Router.Route(intent.Token, intentRoute(intent))
			at := server{intent.Token, b}
			if again[at] == nil {
				order = append(order, at)
			}
			again[at] = append(again[at], intent)
		default:
			errs = append(errs, s.look(ctx, intent, first, now))
		}
	}
	for _, at := range order {
		if !s.Late.mayRenew(at, now) {
			continue // they stay due
		}
		if err := s.renew(ctx, at.token, intentRoute(again[at][0])); err != nil {
			errs = append(errs, fmt.Errorf("looking again for what came late in token %s: %w", at.token, err))
			continue
		}
		for _, intent := range again[at] {
			errs = append(errs, s.look(ctx, intent, false, now))
		}
	}
	return errors.Join(errs...)
}

// look undoes what there is of a late creation. first: nobody has said yet that it was
// interrupted.
func (s *Keyring) look(ctx context.Context, intent *store.Intent, first bool, now time.Time) error {
	b, _, _ := s.Router.Route(intent.Token, intentRoute(intent))
	e := s.reconciliation(intent)
	objects, err := s.take(ctx, b, intent)
	if err != nil {
		return errors.Join(err, s.Failed(ctx, e, err))
	}
	_, _, last := s.Late.due(intent.CKAID, now)
	if first || objects > 0 {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "interrupted work undone", slog.String("action", intent.Action),
			slog.String("key", intent.KeyID), slog.Int("version", intent.Version), slog.Int("objects", objects))
	} else {
		e = nil
	}
	if last || e != nil {
		if err := s.endIntent(ctx, intent, last, e); err != nil {
			return err
		}
		s.Forget(e)
	}
	if last {
		s.Late.forget(intent.CKAID)
	} else {
		s.Late.looked(intent.CKAID, now)
	}
	return nil
}

// Backoff says when to try again what fails: a minute after the first failure, then
// after twice the time each, up to an hour. The zero value has not failed.
type Backoff struct {
	Pause time.Duration
	next  time.Time // not before then
}

func (b *Backoff) Failed(now time.Time) {
	b.Pause = min(max(2*b.Pause, time.Minute), time.Hour)
	b.next = now.Add(b.Pause)
}

// Over reports whether it is time to try.
func (b *Backoff) Over(now time.Time) bool { return !now.Before(b.next) }
