package trust

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
)

// followPause is how soon a node tries again to follow the others.
const followPause = 200 * time.Millisecond

// followBeat is how soon a node looks whether it follows the others, if nothing comes from them. It asks nobody.
const followBeat = time.Second

// Follow shows what other nodes commit, and says so to them, until ctx ends. A node that cannot for
// longer than patience, its token being away, leaves them: it answers nothing until it can.
// One whose database does not verify stops, until an operator has accepted it.
func (s *Trust) Follow(ctx context.Context, patience time.Duration) {
	var failing time.Time // since when, zero if the last attempt did not fail
	var said string
	var seen beheld
	for {
		again := time.After(followBeat) // an operator may accept it, or this node have left on its own
		if s.Mismatch() == nil {
			began := time.Now()
			joining, cancel := ctx, context.CancelFunc(func() {})
			limit := patience
			if !failing.IsZero() {
				limit -= time.Since(failing)
			}
			if limit > 0 { // the others wait: a token that hangs must not hold them up
				joining, cancel = context.WithTimeout(ctx, limit)
			}
			err := s.Store.Join(joining)
			cancel()
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				failing, said = time.Time{}, ""
			case errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrCorrupt):
				if s.spoiled(ctx, err); s.Mismatch() == nil { // the token is away
					again = time.After(patience)
				}
			default:
				again = time.After(followPause)
				if failing.IsZero() {
					failing = began
				}
				if why := cause(err); why != said {
					said = why
					s.Log.LogAttrs(ctx, slog.LevelWarn, "what other daemons have changed is not known yet, will retry", slog.Any("error", err))
				}
				if time.Since(failing) > patience {
					s.Store.Leave(ctx)
				}
			}
		}
		s.behold(ctx, &seen)
		if s.Mismatch() != nil && s.Store.Fresh() == nil { // it has just joined
			s.Store.Leave(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.Store.Arrived():
		case <-again:
		}
	}
}

// spoiled stops a service whose database somebody has changed.
func (s *Trust) spoiled(ctx context.Context, why error) {
	s.Store.Leave(ctx)
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	if s.integrity.seal.Load() == nil {
		return
	}
	head, err := s.foundHead(s.Store.Found())
	if err == nil {
		err = s.lock(ctx, "it was changed while the daemon was running: "+why.Error(), head, true)
	}
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelError, "the database does not verify, and nothing is answered", slog.Any("error", errors.Join(why, err)))
	}
}

// errMoved: another node has committed something while the database was verified.
var errMoved = errors.New("another daemon has changed the database meanwhile")

// current is the newest state of the database, whoever has committed it. Before the database is verified it is not
// trusted.
func (s *Trust) current(ctx context.Context) (*store.View, *store.Sealed, error) {
	if err := s.Store.Sync(ctx); err != nil && !errors.Is(err, store.ErrChanged) && !errors.Is(err, store.ErrCorrupt) {
		return nil, nil, err
	}
	return s.Store.Snapshot(ctx)
}

// moved reports whether the head is another one by now.
func (s *Trust) moved(ctx context.Context, found *store.Sealed) bool {
	_, now, err := s.current(ctx)
	return err == nil && !now.Equal(found)
}

// Verify implements [store.Sealer].
func (h *sealer) Verify(ctx context.Context, before, view *store.View, found *store.Sealed) error {
	s := h.service
	head, err := found.Head()
	if err != nil {
		return fmt.Errorf("%w: its head cannot be read", store.ErrChanged)
	}
	if head.Lineage != h.lineage {
		return fmt.Errorf("%w: another daemon has accepted a state with other keys: restart this one", store.ErrChanged)
	}
	old, _ := before.CurrentSystemKey(s.Token, keyring.PurposeState)
	now, ok := view.CurrentSystemKey(s.Token, keyring.PurposeState)
	if ok && old != nil && keyring.ObjectID(old.CKAID) == keyring.ObjectID(now.CKAID) {
		if head.Epoch != now.Version {
			return fmt.Errorf("%w: its head is of another key than the database names", store.ErrChanged)
		}
		mac, err := s.systemMAC(ctx, now, found.Message())
		if err == nil && !hmac.Equal(mac, found.MAC) {
			err = fmt.Errorf("%w: its head was changed", store.ErrChanged)
		}
		return err
	}
	keys, err := s.stateKeys(ctx, false)
	if err != nil {
		return err
	}
	if last, _ := newest(keys, head.Lineage); ok && last.epoch > head.Epoch {
		if _, there := keys[keyring.ObjectID(now.CKAID)]; !there { // what was committed under the next key is on its way
			return backends.Errorf(backends.KeyMissing, "the key of epoch %d has been replaced", head.Epoch)
		}
	}
	if _, why, err := s.verifyHead(ctx, view, found, head, keys); err != nil {
		return err
	} else if why != "" {
		return fmt.Errorf("%w: %s", store.ErrChanged, why)
	}
	return nil
}
