package daemon

import (
	"encoding/hex"
	"encoding/json"
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

// serveVerifyTrail answers POST /audit/verify: all of the trail is verified
// with the token's key.
func (d *Daemon) serveVerifyTrail(w http.ResponseWriter, r *http.Request) {
	if d.admin(w, r) == nil {
		return
	}
	d.noDeadline(w, r)
	report, problem, err := d.kms.VerifyTrail(r.Context())
	if err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelError, "verifying the audit trail failed", slog.Any("error", err))
		http.Error(w, "the log says why that failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(verifiedTrail{ // the client may be gone
		Problem: problem, Records: report.Records, Segments: report.Segments, First: report.First, Last: report.Last,
		Hash: hex.EncodeToString(report.Hash[:]), FirstTime: report.FirstTime, LastTime: report.LastTime,
		Checkpoints: report.Checkpoints, KeyID: report.KeyID, KeyChanges: report.KeyChanges,
		SignedThrough: report.SignedThrough, Unsigned: report.Unsigned, Outages: report.Outages, Repairs: report.Repairs,
	})
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

// servePruneTrail answers POST /audit/prune: the oldest segments of the audit
// trail are removed.
func (d *Daemon) servePruneTrail(w http.ResponseWriter, r *http.Request) {
	caller := d.admin(w, r)
	if caller == nil {
		return
	}
	var in pruneRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<12)).Decode(&in)
	if err != nil || in.Before.IsZero() == (in.Keep == 0) || in.Keep < 0 {
		http.Error(w, "the body is not what cmkctl audit prune sends: one of before and keep, which is at least 1", http.StatusBadRequest)
		return
	}
	d.noDeadline(w, r)
	pruned, err := d.kms.PruneTrail(r.Context(), caller, audit.PruneOptions{Before: in.Before, Keep: in.Keep, Archive: in.Archive})
	switch {
	case errors.Is(err, store.ErrUnverified):
		http.Error(w, "the database or the audit trail does not verify: see cmkctl accept-state first", http.StatusConflict)
		return
	case audit.IsProblem(err):
		http.Error(w, "nothing was removed, the audit trail does not verify: "+err.Error(), http.StatusConflict)
		return
	case err != nil:
		d.log.LogAttrs(r.Context(), slog.LevelError, "pruning the audit trail failed", slog.Any("error", err))
		http.Error(w, "the log says why that failed; segments that should be gone are moved aside at the next start", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(pruneAnswer{pruned}) // the client may be gone
}

// noDeadline lets an answer take longer than a call may.
func (d *Daemon) noDeadline(w http.ResponseWriter, r *http.Request) {
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelWarn, "the answer to an operator has a deadline", slog.Any("error", err))
	}
}
