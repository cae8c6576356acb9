package operatorapi

import "time"

// VerifiedTrail is the answer to POST /audit/verify.
type VerifiedTrail struct {
	// Problem is what is wrong with the trail, "" if it verifies.
	Problem       string    `json:"problem,omitempty"`
	Records       uint64    `json:"records"`
	Segments      int       `json:"segments"`
	First         uint64    `json:"first"` // sequence numbers
	Last          uint64    `json:"last"`
	Hash          string    `json:"hash"` // SHA-256 of the last record, hexadecimal
	FirstTime     time.Time `json:"firstTime"`
	LastTime      time.Time `json:"lastTime"`
	Checkpoints   int       `json:"checkpoints"`
	KeyID         string    `json:"keyId"` // of the last checkpoint
	KeyChanges    int       `json:"keyChanges"`
	SignedThrough uint64    `json:"signedThrough"`
	Unsigned      uint64    `json:"unsigned"` // records after the last checkpoint
	Outages       int       `json:"outages"`  // AuditLogResumed
	Repairs       int       `json:"repairs"`  // AuditLogRepaired
}

// PruneRequest is POST /audit/prune: one of Before and Keep is given.
type PruneRequest struct {
	// Before: segments with nothing but older records go.
	Before time.Time `json:"before,omitzero"`
	// Keep is the number of the newest segments that stay.
	Keep int `json:"keep"`
	// Archive: they are moved to the folder archive instead of deleted.
	Archive bool `json:"archive"`
}

// PruneAnswer has what was removed, nil if nothing was to be.
type PruneAnswer struct {
	Pruned *Pruning `json:"pruned"`
}

// Pruning is what was removed from the beginning of the trail.
type Pruning struct {
	// First and FirstPreviousHash are the new beginning.
	First             uint64 `json:"first"`
	FirstPreviousHash string `json:"firstPreviousHash"`
	// Records were removed, with these Segments, whose last record is of Until.
	Records  uint64    `json:"records"`
	Segments []string  `json:"segments"`
	Until    time.Time `json:"until"`
	// Archive is the folder that they were moved to, "" if they were deleted.
	Archive string `json:"archive,omitempty"`
}
