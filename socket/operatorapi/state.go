package operatorapi

import "time"

// AcceptRequest is POST /accept-state. Without a root it asks what is the matter with
// the database; with the root that was shown, the operator accepts the rows as they
// are.
type AcceptRequest struct {
	Root string `json:"root"`
}

// ReadOnly reports whether the request only looks.
func (r *AcceptRequest) ReadOnly() bool { return r.Root == "" }

// Acceptance is the answer to POST /accept-state.
type Acceptance struct {
	Accepted bool `json:"accepted"`
	// Mismatch is what there is to decide, nil if the database is trusted.
	Mismatch *Mismatch `json:"mismatch"`
}

// Mismatch is why the daemon does not trust its database or audit trail.
type Mismatch struct {
	Reason string `json:"reason"`
	// Root is the hash over the rows as they are now, hexadecimal: what is
	// accepted is what was looked at.
	Root string `json:"root"`
	// Sequence, Time and Epoch are of the head in the database. They can be
	// trusted if HeadVerified.
	Sequence     uint64    `json:"sequence,omitzero"`
	Time         time.Time `json:"time,omitzero"`
	Epoch        int       `json:"epoch,omitzero"`
	HeadVerified bool      `json:"headVerified"`
	// Trail is what is wrong with the audit trail, "" if nothing is known to be.
	Trail string `json:"trail,omitempty"`
	// LaterRecords is how many records the audit trail has after the head.
	LaterRecords uint64 `json:"laterRecords,omitzero"`
	// Differences are the rows that are not what they were at the last commit.
	// Exact: they are all that was done; else what tells them apart may have
	// been changed too.
	Differences []Difference `json:"differences,omitempty"`
	Exact       bool         `json:"exact"`
	// CompareError says why there are no differences.
	CompareError string `json:"compareError,omitempty"`
}

// Difference is a row that is not what it was at the last commit.
type Difference struct {
	Table string `json:"table"`
	Row   string `json:"row"`    // JSON array of the primary key
	Kind  string `json:"change"` // "changed", "added" or "missing"
}

// RecoverRequest is POST /recover: what do the tokens and the database not agree on?
// If it says so, the key materials that the database lacks are adopted: of the keys
// named, or of all if none is.
type RecoverRequest struct {
	Adopt bool     `json:"adopt"`
	Keys  []string `json:"keys"`
}

// ReadOnly reports whether the request only looks.
func (r *RecoverRequest) ReadOnly() bool { return !r.Adopt }

// Inventory is what the tokens and the database do not agree on.
type Inventory struct {
	// Away are the tokens that do not answer: nothing is known of them.
	Away []string `json:"away,omitempty"`
	// Missing are key materials of the database that are not in their token.
	Missing []Material `json:"missing,omitempty"`
	// Unsafe are key materials of the database whose objects have other attributes than
	// cmkd gave them, those that a call has met.
	Unsafe []Material `json:"unsafe,omitempty"`
	// Found are key materials in a token that the database does not know, by
	// key.
	Found []*FoundKey `json:"found,omitempty"`
	// Duplicates are CKA_IDs of the database that two objects have.
	Duplicates []Duplicate `json:"duplicates,omitempty"`
	// Leftovers are further objects of cmkd's that the database does not know:
	// the daemon's own keys of an earlier database, and what imports left.
	Leftovers []Leftover `json:"leftovers,omitempty"`
}

// Material is a key material of the database.
type Material struct {
	KeyID   string `json:"keyId"`
	Version int    `json:"version"`
	Token   string `json:"token"`
}

// FoundKey is a key some of whose materials the database does not know.
type FoundKey struct {
	KeyID    string `json:"keyId"`
	Token    string `json:"token"`
	Versions []int  `json:"versions"` // as CKA_LABEL has them, ascending
	Spec     string `json:"spec,omitempty"`
	Usage    string `json:"usage,omitempty"`
	Imported bool   `json:"imported,omitempty"`
	// Known: the database knows the key, and other materials of it.
	Known bool `json:"known"`
	// Problem is why the key cannot be recovered, "" if it can.
	Problem string `json:"problem,omitempty"`
	// Recovered: it has been.
	Recovered bool `json:"recovered,omitempty"`
}

// Duplicate is a CKA_ID of the database that two objects of one class have in the
// token: which of them is the key nobody knows, so neither is used.
type Duplicate struct {
	Token string `json:"token"`
	ID    string `json:"id"` // CKA_ID, hexadecimal
	// KeyID is the key's; of one of the daemon's own keys it is "system-" and the
	// purpose, and of a wrapping pair "import-" and the ID of the key.
	KeyID   string `json:"keyId"`
	Version int    `json:"version"`
}

// Leftover is an object in a token.
type Leftover struct {
	Token string `json:"token"`
	ID    string `json:"id"`    // CKA_ID, hexadecimal
	Label string `json:"label"` // CKA_LABEL
	// Needed: data keys that were wrapped with it cannot be opened without it, or backups
	// that it authenticates not be restored.
	Needed bool `json:"needed,omitempty"`
}
