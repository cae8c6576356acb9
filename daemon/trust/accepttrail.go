package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
)

// Of a node whose trail does not verify the rows may, and the others go on to change them. So what is
// accepted are not the rows that were looked at but those of the last head, which verify.

// stored is what the database has, whoever has written it.
type stored struct {
	view  *store.View
	found *store.Sealed
	head  *store.Head // nil if there is none that can be read
	// authentic: the head is. current: it is of the newest epoch. why the database does not verify, "" if it does.
	authentic, current bool
	why                string
}

// maxLooks is how often the database is read again because other nodes have committed meanwhile.
const maxLooks = 20

// stored reads the database and verifies it. An error is the token's or the database's, and says nothing.
func (s *Trust) stored(ctx context.Context) (seen *stored, err error) {
	for range maxLooks {
		seen = &stored{}
		if seen.view, seen.found, err = s.Store.Stored(ctx); err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		if err := s.judge(ctx, seen); err != nil {
			return nil, err
		}
		if seen.why == "" || !s.Store.Shared() {
			break
		}
		// Keys of the token that are newer than the head are so because others have gone on.
		_, now, err := s.Store.Stored(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		if now.Equal(seen.found) {
			break
		}
	}
	return seen, nil
}

// judge verifies what was read.
func (s *Trust) judge(ctx context.Context, seen *stored) error {
	if seen.found == nil {
		seen.why = "its head is missing"
		return nil
	}
	keys, err := s.stateKeys(ctx, false)
	if err != nil {
		return err
	}
	if seen.head, err = s.foundHead(seen.found); err != nil {
		seen.head, seen.why = nil, "its head cannot be read"
		return nil //nolint:nilerr // that is what there is to see
	}
	last, _ := newest(keys, seen.head.Lineage)
	seen.authentic, seen.why, err = s.verifyHead(ctx, seen.view, seen.found, seen.head, keys)
	seen.current = seen.authentic && last.epoch == seen.head.Epoch
	return err
}

// Look is Mismatch, with the rows as they are now: other nodes may have changed them.
func (s *Trust) Look(ctx context.Context) *Mismatch {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	m := s.Mismatch()
	if m == nil || !s.Store.Shared() {
		return m
	}
	now := *m
	seen, err := s.stored(ctx)
	if err != nil {
		now.CompareError = err.Error()
		return &now
	}
	now.HeadVerified = seen.authentic
	if seen.head != nil {
		now.Sequence, now.Time, now.Epoch = seen.head.Sequence, seen.head.Time, seen.head.Epoch
	}
	switch {
	case seen.why != "":
		now.Reason = seen.why
	case m.ofTrail:
		now.Reason = trailReason
	default:
		now.Reason = "it did not verify, and does now: it was repaired, or accepted on another daemon. Restart this one"
	}
	s.compare(ctx, &now, seen.head)
	s.integrity.mismatch.Store(&now)
	return &now
}

// acceptTrail is AcceptState for a node whose trail does not verify while the database does. The
// caller holds integrity.mu.
func (s *Trust) acceptTrail(ctx context.Context, c *journal.Call, m *Mismatch) error {
	if err := s.Store.Sync(ctx); err != nil { // so that nothing is recorded of what cannot be done
		return err
	}
	begins, err := s.recordAccepted(ctx, c, m)
	if err != nil {
		return err
	}
	err = s.resumeVerified(ctx)
	s.Concluded(c, err)
	if err != nil {
		return fmt.Errorf("accepting the audit trail: %w", err)
	}
	s.integrity.mismatch.Store(nil)
	if err := s.resumeTrail(ctx, begins); err != nil {
		return err
	}
	s.Log.LogAttrs(ctx, slog.LevelWarn, "the audit trail is accepted as it is")
	return nil
}

// resumeVerified goes on with the rows that the database has, if they verify, and makes it name the end of the trail.
func (s *Trust) resumeVerified(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for tries := 1; ; tries++ {
		seen, err := s.stored(ctx)
		if err == nil && seen.why != "" {
			err = fmt.Errorf("%w: %s", store.ErrChanged, seen.why)
		}
		if err == nil {
			err = s.Store.Sync(ctx)
		}
		if err == nil {
			seal := &sealer{service: s, lineage: seen.head.Lineage}
			if err = s.Store.Resume(ctx, seal, seen.head); err == nil {
				s.integrity.seal.Store(seal)
				break
			}
		}
		if !errors.Is(err, store.ErrChanged) || tries == maxLooks {
			return err
		}
	}
	err := s.writeHead(ctx)
	if err != nil {
		s.integrity.seal.Store(nil)
		return errors.Join(err, s.Store.Lock(ctx, trailReason))
	}
	return nil
}
