package operator

import (
	"context"
	"errors"
	"net/http"

	"cmkd/daemon/store"
	"cmkd/daemon/trust"
	"cmkd/socket/operatorapi"
)

// acceptState shows what is the matter with the database or the audit trail, or
// accepts them as they are.
func (s *Service) acceptState(ctx context.Context, c *Caller, in *operatorapi.AcceptRequest) (*operatorapi.Acceptance, error) {
	if in.ReadOnly() {
		m := s.KMS.Look(ctx)
		if m == nil {
			if stale := s.KMS.Store.Fresh(); stale != nil {
				return nil, Unavailable("whether the database verifies is not known now", stale)
			}
		}
		return &operatorapi.Acceptance{Mismatch: mismatch(m)}, nil
	}
	err := s.KMS.AcceptState(ctx, c.call, in.Root)
	if errors.Is(err, store.ErrChanged) {
		return nil, invalid(http.StatusConflict, "the database is not the one that was looked at: look again")
	}
	if errors.Is(err, trust.ErrMalformed) {
		return nil, invalid(http.StatusConflict, err.Error())
	}
	if err == nil {
		err = s.Daemon.Resume(ctx)
	}
	if err != nil {
		return nil, failed("that failed, see the daemon's log; cmkctl status shows whether the database is accepted", err)
	}
	return &operatorapi.Acceptance{Accepted: true}, nil
}

func mismatch(m *trust.Mismatch) *operatorapi.Mismatch {
	if m == nil {
		return nil
	}
	out := &operatorapi.Mismatch{
		Reason: m.Reason, Root: m.Root, Sequence: m.Sequence, Time: m.Time, Epoch: m.Epoch, HeadVerified: m.HeadVerified,
		Trail: m.Trail, LaterRecords: m.LaterRecords, Exact: m.Exact, CompareError: m.CompareError,
	}
	for _, d := range m.Differences {
		out.Differences = append(out.Differences, operatorapi.Difference(d))
	}
	return out
}
