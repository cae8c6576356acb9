package daemon

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/store"
)

// verifiedTrail is the answer to POST /audit/verify.
type verifiedTrail struct {
	Problem       string    `json:"problem,omitempty"`
	Records       uint64    `json:"records"`
	Segments      int       `json:"segments"`
	First         uint64    `json:"first"`
	Last          uint64    `json:"last"`
	Hash          string    `json:"hash"`
	FirstTime     time.Time `json:"firstTime"`
	LastTime      time.Time `json:"lastTime"`
	Checkpoints   int       `json:"checkpoints"`
	KeyID         string    `json:"keyId"`
	KeyChanges    int       `json:"keyChanges"`
	SignedThrough uint64    `json:"signedThrough"`
	Unsigned      uint64    `json:"unsigned"`
	Outages       int       `json:"outages"`
	Repairs       int       `json:"repairs"`
}

// verifyTrail answers POST /audit/verify: all of the trail is verified with the
// token's key.
func (d *Daemon) verifyTrail(o *operator, _ *struct{}) (*verifiedTrail, error) {
	d.noDeadline(o)
	report, problem, err := d.kms.VerifyTrail(o.Context())
	if err != nil {
		return nil, failed("the log says why that failed", err)
	}
	return &verifiedTrail{
		Problem: problem, Records: report.Records, Segments: report.Segments, First: report.First, Last: report.Last,
		Hash: hex.EncodeToString(report.Hash[:]), FirstTime: report.FirstTime, LastTime: report.LastTime,
		Checkpoints: report.Checkpoints, KeyID: report.KeyID, KeyChanges: report.KeyChanges,
		SignedThrough: report.SignedThrough, Unsigned: report.Unsigned, Outages: report.Outages, Repairs: report.Repairs,
	}, nil
}

// pruneRequest is POST /audit/prune: one of Before and Keep is given.
type pruneRequest struct {
	Before  time.Time `json:"before,omitzero"`
	Keep    int       `json:"keep"`
	Archive bool      `json:"archive"`
}

// pruneAnswer has what was removed, nil if nothing was to be.
type pruneAnswer struct {
	Pruned *audit.Pruning `json:"pruned"`
}

// pruneTrail answers POST /audit/prune: the oldest segments of the audit trail
// are removed.
func (d *Daemon) pruneTrail(o *operator, in *pruneRequest) (*pruneAnswer, error) {
	if in.Before.IsZero() == (in.Keep == 0) || in.Keep < 0 {
		return nil, invalid(http.StatusBadRequest, "the body is not what cmkctl audit prune sends: one of before and keep, which is at least 1")
	}
	d.noDeadline(o)
	pruned, err := d.kms.PruneTrail(o.Context(), o.call, audit.PruneOptions{Before: in.Before, Keep: in.Keep, Archive: in.Archive})
	switch {
	case errors.Is(err, store.ErrUnverified):
		return nil, invalid(http.StatusConflict, "the database or the audit trail does not verify: see cmkctl accept-state first")
	case audit.IsProblem(err):
		return nil, invalid(http.StatusConflict, "nothing was removed, the audit trail does not verify: "+err.Error())
	case err != nil:
		return nil, failed("the log says why that failed; segments that should be gone are moved aside at the next start", err)
	}
	return &pruneAnswer{pruned}, nil
}

// noDeadline lets an answer take longer than a call may.
func (d *Daemon) noDeadline(o *operator) {
	if err := http.NewResponseController(o.writer).SetWriteDeadline(time.Time{}); err != nil {
		d.log.LogAttrs(o.Context(), slog.LevelWarn, "the answer to an operator has a deadline", slog.Any("error", err))
	}
}
