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

// TrailQuery is POST /audit/read: the records that all of it fits. The answer is the
// lines of the trail, as they are, in chunks as they are found. It is whole if it ends as
// HTTP has it and without the trailer [TrailErrorTrailer], which says what went wrong.
type TrailQuery struct {
	// Keys are alternatives.
	Keys []TrailKey `json:"keys,omitempty"`
	// Principal is an ARN, its part behind the account (user/NAME), a user name or a
	// principal ID; * stands for any text.
	Principal  string   `json:"principal,omitempty"`
	Operations []string `json:"operations,omitempty"` // alternative eventNames, in any case
	// Outcome is "ok", "refused", "failed" or an error code.
	Outcome string    `json:"outcome,omitempty"`
	Since   time.Time `json:"since,omitzero"` // eventTime at or after
	Until   time.Time `json:"until,omitzero"` // eventTime before
	Text    string    `json:"text,omitempty"` // as it is in the JSON
	Region  string    `json:"region,omitempty"`
	ID      string    `json:"id,omitempty"` // eventID or requestID
	// Sequence of the record.
	Sequence uint64 `json:"sequence,omitzero"`
	// Checkpoints are wanted too.
	Checkpoints bool `json:"checkpoints,omitempty"`

	// Reverse: newest first.
	Reverse bool `json:"reverse,omitempty"`
	// Follow: the records behind the one with the sequence After, as they are written,
	// until the client hangs up or the daemon stops.
	Follow bool   `json:"follow,omitempty"`
	After  uint64 `json:"after,omitzero"`
}

// TrailKey is a key by its ID, in one Region or, with "", in any.
type TrailKey struct {
	Region string `json:"region,omitempty"`
	ID     string `json:"id"`
}

// TrailErrorTrailer is the HTTP trailer that says why an answer to [ReadTrail] is not
// whole.
const TrailErrorTrailer = "Cmkd-Trail-Error"

// SearchTime is the longest that the daemon searches for an answer to [ReadTrail] that
// follows nothing: hundreds of millions of records are read by then.
const SearchTime = 10 * time.Minute
