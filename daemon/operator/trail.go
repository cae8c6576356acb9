package operator

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"

	"cmkd/daemon/audit"
	"cmkd/daemon/store"
	"cmkd/socket/operatorapi"
)

// verifyTrail verifies all of the audit trail with the token's key.
func (s *Service) verifyTrail(ctx context.Context, _ *Caller, _ *operatorapi.None) (*operatorapi.VerifiedTrail, error) {
	report, problem, err := s.KMS.VerifyTrail(ctx)
	if err != nil {
		return nil, failed("that failed, see the daemon's log", err)
	}
	return &operatorapi.VerifiedTrail{
		Problem: problem, Records: report.Records, Segments: report.Segments, First: report.First, Last: report.Last,
		Hash: hex.EncodeToString(report.Hash[:]), FirstTime: report.FirstTime, LastTime: report.LastTime,
		Checkpoints: report.Checkpoints, KeyID: report.KeyID, KeyChanges: report.KeyChanges,
		SignedThrough: report.SignedThrough, Unsigned: report.Unsigned, Outages: report.Outages, Repairs: report.Repairs,
	}, nil
}

// pruneTrail removes the oldest segments of the audit trail.
func (s *Service) pruneTrail(ctx context.Context, c *Caller, in *operatorapi.PruneRequest) (*operatorapi.PruneAnswer, error) {
	if in.Before.IsZero() == (in.Keep == 0) || in.Keep < 0 {
		return nil, invalid(http.StatusBadRequest, "the body is not what cmkctl audit prune sends: one of before and keep, which is at least 1")
	}
	pruned, err := s.KMS.PruneTrail(ctx, c.call, audit.PruneOptions{Before: in.Before, Keep: in.Keep, Archive: in.Archive})
	switch {
	case errors.Is(err, store.ErrUnverified):
		return nil, invalid(http.StatusConflict, "the database or the audit trail does not verify: see cmkctl accept-state first")
	case audit.IsProblem(err):
		return nil, invalid(http.StatusConflict, "nothing was removed, the audit trail does not verify: "+err.Error())
	case err != nil:
		return nil, failed("that failed, see the daemon's log; segments that remain are moved aside at the next start", err)
	case pruned == nil:
		return &operatorapi.PruneAnswer{}, nil
	}
	return &operatorapi.PruneAnswer{Pruned: &operatorapi.Pruning{
		First: pruned.First, FirstPreviousHash: pruned.FirstPreviousHash, Records: pruned.Records,
		Segments: pruned.Segments, Until: pruned.Until, Archive: pruned.Archive,
	}}, nil
}
