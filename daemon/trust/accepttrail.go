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

// Look is Mismatch, with the rows as they are now: other nodes may have changed them.
func (s *Trust) Look(ctx context.Context) *Mismatch {
	s.integrity.mu.Lock()
	defer s.integrity.mu.Unlock()
	m := s.Mismatch()
	if m == nil || !s.Store.Shared() {
		return m
	}
	now := *m
	head, authentic, why, err := s.lookAtHead(ctx)
	if err != nil {
		now.CompareError = err.Error()
		return &now
	}
	now.HeadVerified = authentic
	if head != nil {
		now.Sequence, now.Time, now.Epoch = head.Sequence, head.Time, head.Epoch
	}
	if why != "" {
		now.Reason = why
	}
	s.compare(ctx, &now, head)
	s.integrity.mismatch.Store(&now)
	return &now
}

// lookAtHead verifies what the database has now. head is nil if there is none that can be read.
func (s *Trust) lookAtHead(ctx context.Context) (head *store.Head, authentic bool, why string, err error) {
	view, found, err := s.Store.Stored(ctx)
	if err != nil || found == nil {
		return nil, false, "", err
	}
	keys, err := s.stateKeys(ctx, false)
	if err != nil {
		return nil, false, "", err
	}
	if head, err = s.foundHead(found); err != nil {
		return nil, false, "its head cannot be read", nil //nolint:nilerr // that is what there is to see
	}
	authentic, why, err = s.verifyHead(ctx, view, found, head, keys)
	return head, authentic, why, err
}

// maxResumptions is how often a node goes on anew because others have committed meanwhile.
const maxResumptions = 20

// acceptTrail is AcceptState for a node whose trail does not verify while the database does. The
// caller holds integrity.mu.
func (s *Trust) acceptTrail(ctx context.Context, c *journal.Call, m *Mismatch) error {
	if _, err := s.verifiedHead(ctx); err != nil { // so that nothing is recorded of what will not be done
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

// verifiedHead is the head of the database as it is now; [store.ErrChanged] if it does not verify.
func (s *Trust) verifiedHead(ctx context.Context) (*store.Head, error) {
	view, found, err := s.current(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", err)
	}
	keys, err := s.stateKeys(ctx, false)
	if err != nil {
		return nil, err
	}
	head, err := s.foundHead(found)
	if err != nil {
		return nil, store.ErrChanged
	}
	_, why, err := s.verifyHead(ctx, view, found, head, keys)
	if err == nil && why != "" {
		err = fmt.Errorf("%w: %s", store.ErrChanged, why)
	}
	return head, err
}

// resumeVerified goes on with the rows that the database has, if they verify, and makes it name the end of the trail.
func (s *Trust) resumeVerified(ctx context.Context) error {
	for tries := 1; ; tries++ {
		head, err := s.verifiedHead(ctx)
		if err == nil {
			seal := &sealer{service: s, lineage: head.Lineage}
			if err = s.Store.Resume(ctx, seal, head); err == nil {
				s.integrity.seal.Store(seal)
				break
			}
		}
		if !errors.Is(err, store.ErrChanged) || tries == maxResumptions {
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
