package keyring

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
)

const (
	Day              = 24 * time.Hour
	settingClock     = "clock"         // when the jobs ran last
	settingHeldSince = "held-deletion" // set while deletions are held
	// ClockJump is how far the clock may run ahead of the last time seen
	// before deletions are held.
	ClockJump = Day
)

// Clock is what the service has seen of the time itself. What the database says
// lags behind while that cannot be written, or while the token is away that
// authenticates it.
type clock struct {
	// watching has an element while the clock is watched or confirmed. That takes as
	// long as a commit, and who waits may have given up meanwhile.
	watching chan struct{}

	mu     sync.Mutex // guards what follows
	seen   time.Time  // when the clock was read last, zero: not yet
	jumped bool       // it was more than clockJump ahead of what was seen before, and nobody has confirmed it
}

func newClock() clock { return clock{watching: make(chan struct{}, 1)} }

// watch has the clock watched or confirmed by one at a time, until release is called.
func (c *clock) watch(ctx context.Context) (release func(), err error) {
	select {
	case c.watching <- struct{}{}:
		return func() { <-c.watching }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to note the time: %w", context.Cause(ctx))
	}
}

// SeeClock notes the time in memory only. The daemon does so whenever its jobs
// are due, also when it can do nothing else.
func (s *Keyring) SeeClock() {
	view, now := s.Store.View(), s.Now()
	s.Clock.mu.Lock()
	defer s.Clock.mu.Unlock()
	s.Clock.jumped = s.Clock.jumped || jump(view, s.Clock.seen, now)
	s.Clock.seen = now
}

// jump reports whether the clock is more than clockJump ahead of the last time
// that the database or this process has seen.
func jump(view *store.View, seen, now time.Time) bool {
	setting, ok := view.Setting(settingClock)
	if !ok {
		return false
	}
	last, err := time.Parse(time.RFC3339Nano, setting.Value)
	if seen.After(last) {
		last = seen
	}
	return err != nil || now.Sub(last) > ClockJump
}

// confirm notes that the time is right.
func (c *clock) confirm(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen, c.jumped = now, false
}

// WatchClock notes the time. If the clock is more than a day ahead of the last
// time noted, it may be wrong: from then on nothing is deleted in the tokens,
// neither keys nor imported material, until an operator has looked at it
// ([Service.ConfirmClock]). A daemon that was down for longer than a day waits
// in the same way; one that ran, and could not write the time down, does not.
// A clock that goes back deletes later, which is harmless.
func (s *Keyring) WatchClock(ctx context.Context) error {
	release, err := s.Clock.watch(ctx)
	if err != nil {
		return err
	}
	defer release()
	s.SeeClock()
	now, began := s.Now(), false
	err = s.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		if _, known := tx.Setting(settingHeldSince); !known && s.Clock.hasJumped() {
			began = true
			if err := tx.PutSetting(timeSetting(settingHeldSince, now)); err != nil {
				return err
			}
		}
		return tx.PutSetting(timeSetting(settingClock, now))
	})
	if began && err == nil {
		s.Log.LogAttrs(ctx, slog.LevelError,
			"the clock is more than a day ahead of the last time seen: deletions are held until cmkctl confirm-clock",
			slog.Time("now", now))
	}
	return err
}

func (c *clock) hasJumped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jumped
}

func timeSetting(name string, t time.Time) *store.Setting {
	return &store.Setting{Name: name, Value: t.UTC().Format(time.RFC3339Nano)}
}

// HoldDeletions holds deletions in a database that was accepted, if it has any:
// they may have been cancelled since the copy was taken, or brought forward by
// whoever changed it, and what is destroyed in a token is gone.
func (s *Keyring) HoldDeletions(tx *store.Tx) error {
	for k := range tx.AllKeys() {
		if !k.Deletion.IsZero() {
			return tx.PutSetting(timeSetting(settingHeldSince, s.Now()))
		}
	}
	for v := range tx.AllVersions() {
		if !v.ValidTo.IsZero() {
			return tx.PutSetting(timeSetting(settingHeldSince, s.Now()))
		}
	}
	return nil
}

// Held reports whether deletions are held because the clock, or what the
// database says of deletions, is not to be trusted before an operator has looked.
func (s *Keyring) Held() bool {
	view, now := s.Store.View(), s.Now()
	if _, held := view.Setting(settingHeldSince); held {
		return true
	}
	s.Clock.mu.Lock()
	defer s.Clock.mu.Unlock()
	return s.Clock.jumped || jump(view, s.Clock.seen, now)
}

// ConfirmClock ends the hold on deletions: an operator has looked at the time,
// and at what is to be deleted.
// It returns the time confirmed, and does nothing that is not recorded.
func (s *Keyring) ConfirmClock(ctx context.Context, c *journal.Call) (time.Time, error) {
	release, err := s.Clock.watch(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("confirming the clock: %w", err)
	}
	defer release()
	now := s.Now()
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		tx.DeleteSetting(settingHeldSince)
		return tx.PutSetting(timeSetting(settingClock, now))
	})
	if err != nil {
		return now, fmt.Errorf("confirming the clock: %w", err)
	}
	s.Clock.confirm(now)
	s.Log.LogAttrs(ctx, slog.LevelWarn, "the clock was confirmed, deletions resume", slog.Time("now", now))
	return now, nil
}
