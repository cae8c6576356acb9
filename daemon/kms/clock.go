package kms

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"cmkd/daemon/store"
)

const (
	day              = 24 * time.Hour
	settingClock     = "clock"         // when the jobs ran last
	settingHeldSince = "held-deletion" // set while deletions are held
	// clockJump is how far the clock may run ahead of the last time seen
	// before deletions are held.
	clockJump = day
)

// WatchClock notes the time. If the clock is more than a day ahead of the last
// time noted, it may be wrong: from then on nothing is deleted in the tokens,
// neither keys nor imported material, until an operator has looked at it
// ([Service.ConfirmClock]). A daemon that was down for longer than a day waits
// in the same way. A clock that goes back deletes later, which is harmless.
func (s *Service) WatchClock(ctx context.Context) error {
	now, held := s.now(), s.Held()
	_, known := s.store.View().Setting(settingHeldSince)
	if held && !known {
		s.log.LogAttrs(ctx, slog.LevelError,
			"the clock is more than a day ahead of the last time seen: deletions are held until cmkctl confirm-clock",
			slog.Time("now", now))
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		if held && !known {
			if err := tx.PutSetting(timeSetting(settingHeldSince, now)); err != nil {
				return err
			}
		}
		return tx.PutSetting(timeSetting(settingClock, now))
	})
}

func timeSetting(name string, t time.Time) *store.Setting {
	return &store.Setting{Name: name, Value: t.UTC().Format(time.RFC3339Nano)}
}

// holdDeletions holds deletions in a database that was accepted, if it has any:
// they may have been cancelled since the copy was taken, or brought forward by
// whoever changed it, and what is destroyed in a token is gone.
func (s *Service) holdDeletions(tx *store.Tx) error {
	for k := range tx.AllKeys() {
		if !k.Deletion.IsZero() {
			return tx.PutSetting(timeSetting(settingHeldSince, s.now()))
		}
	}
	for v := range tx.AllVersions() {
		if !v.ValidTo.IsZero() {
			return tx.PutSetting(timeSetting(settingHeldSince, s.now()))
		}
	}
	return nil
}

// Held reports whether deletions are held because the clock, or what the
// database says of deletions, is not to be trusted before an operator has looked.
func (s *Service) Held() bool {
	view := s.store.View()
	if _, held := view.Setting(settingHeldSince); held {
		return true
	}
	last, ok := view.Setting(settingClock)
	if !ok {
		return false
	}
	seen, err := time.Parse(time.RFC3339Nano, last.Value)
	return err != nil || s.now().Sub(seen) > clockJump
}

// ConfirmClock ends the hold on deletions: an operator has looked at the time,
// and at what is to be deleted.
// It returns the time confirmed, and does nothing that is not on record.
func (s *Service) ConfirmClock(ctx context.Context, c *Call) (time.Time, error) {
	now := s.now()
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		tx.DeleteSetting(settingHeldSince)
		return tx.PutSetting(timeSetting(settingClock, now))
	})
	if err != nil {
		return now, fmt.Errorf("confirming the clock: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "the clock is confirmed, deletions go on", slog.Time("now", now))
	return now, nil
}
