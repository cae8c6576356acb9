package operatorapi

import (
	"net/http"
	"time"
)

// OK is the state of a daemon, and of a token, that is well.
const OK = "ok"

// Degraded is the state of a daemon with something to look at.
const Degraded = "degraded"

// Health is the answer to GET /status.
type Health struct {
	State         string   `json:"state"` // OK or Degraded
	Version       string   `json:"version"`
	UptimeSeconds int64    `json:"uptimeSeconds"`
	Account       string   `json:"account"`
	Regions       []string `json:"regions"`
	Keys          int      `json:"keys"`
	AuditRecords  uint64   `json:"auditRecords"`
	// DeletionsHeld: the clock jumped ahead, or the database was accepted, and an
	// operator must confirm the time and what is due.
	DeletionsHeld bool `json:"deletionsHeld,omitempty"`
	// ReloadError is why the last reload failed: what it should have changed has not
	// changed.
	ReloadError string `json:"reloadError,omitempty"`
	// Warnings are about the identity policies and the modes of PIN files.
	Warnings []string `json:"warnings,omitempty"`
	// StateMismatch is why the database is not trusted.
	StateMismatch string `json:"stateMismatch,omitempty"`
	// AuditMismatch is why the audit trail is not trusted.
	AuditMismatch string `json:"auditMismatch,omitempty"`
	// AuditError is why the audit trail cannot be written: no call is answered.
	AuditError string `json:"auditError,omitempty"`
	// DatabaseError is why the database cannot be written: nothing can be changed.
	DatabaseError string `json:"databaseError,omitempty"`
	// Fenced is why this daemon answers no calls: it does not know what others have changed.
	Fenced string `json:"fenced,omitempty"`
	// EpochError is why the epoch of the database goes on that should have ended:
	// an older copy of it, of the same epoch, would verify.
	EpochError string `json:"epochError,omitempty"`
	// Duplicates are the keys that are not used because two objects in the token
	// have their CKA_ID.
	Duplicates []Duplicate `json:"duplicates,omitempty"`
	// UnsafeMaterials are the key materials that are not used because their objects in
	// the token have other attributes than cmkd gave them.
	UnsafeMaterials []Material `json:"unsafeMaterials,omitempty"`
	// MissingMaterials counts the key materials that are not in their token: cmkctl
	// recover names them.
	MissingMaterials int       `json:"missingMaterials,omitempty"`
	AuditDisk        AuditDisk `json:"auditDisk"`
	// AuditShipping is how far the audit trail is shipped, nil if it is not.
	AuditShipping *AuditShipping `json:"auditShipping,omitempty"`
	// Nodes are the daemons that have the database open, and Servers those of etcd that keep
	// it; both are nil of a database in a file.
	Nodes   []NodeHealth   `json:"nodes,omitempty"`
	Servers []ServerHealth `json:"servers,omitempty"`
	Tokens  []TokenHealth  `json:"tokens"`
	Plugins []PluginHealth `json:"plugins"`
}

// HTTPStatus is 503 unless the daemon is well, for load balancers and probes that
// look at nothing else.
func (h *Health) HTTPStatus() int {
	if h.State != OK {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// AuditDisk is the disk of the audit trail.
type AuditDisk struct {
	FreeBytes  uint64 `json:"freeBytes"`
	TotalBytes uint64 `json:"totalBytes"`
	// Warning is why somebody should act, "" if there is nothing to do.
	Warning string `json:"warning,omitempty"`
	// Reserved: the calls of users who are not admins are refused.
	Reserved bool `json:"reserved,omitempty"`
}

// NodeHealth is a daemon among those that have one database.
type NodeHealth struct {
	Name string `json:"name"`
	Self bool   `json:"self,omitempty"` // the one that answers
	// Serves: it answers calls, as far as the others know. Leader: it does what one daemon
	// does for all.
	Serves bool `json:"serves"`
	Leader bool `json:"leader,omitempty"`
	// LagMilliseconds is for how long it has not confirmed the last change. Changes wait
	// for it.
	LagMilliseconds int64 `json:"lagMilliseconds"`
}

// ServerHealth is a server of etcd.
type ServerHealth struct {
	Endpoint string `json:"endpoint"`
	Leader   bool   `json:"leader,omitempty"`
	// Error is why it does not answer, "" if it does.
	Error string `json:"error,omitempty"`
}

// AuditShipping is how far the audit trail is shipped.
type AuditShipping struct {
	To       string `json:"to"`       // the receiver
	Position uint64 `json:"position"` // sequence number of the last record that it has taken
	// LagRecords are later ones, and LagSeconds is how old the first of them is.
	LagRecords uint64 `json:"lagRecords"`
	LagSeconds int64  `json:"lagSeconds"`
	// Error is why nothing is shipped, "" if nothing is wrong.
	Error string `json:"error,omitempty"`
	// LostRecords were pruned or set aside before they were shipped, since the start.
	LostRecords uint64 `json:"lostRecords,omitempty"`
}

// TokenHealth is a token of the configuration.
type TokenHealth struct {
	Name   string `json:"name"`
	Label  string `json:"label"`
	Serial string `json:"serial"`
	Model  string `json:"model"`
	State  string `json:"state"` // OK, "unavailable", or "degraded": a member is not OK
	// Members are the tokens that hold its keys, if there are several. Label, Serial and Model
	// are of one of them then.
	Members []MemberHealth `json:"members,omitempty"`
}

// MemberHealth is one of several tokens that hold the same keys.
type MemberHealth struct {
	Name   string `json:"name"`
	Label  string `json:"label"`
	Serial string `json:"serial"`
	// State is OK; "unavailable": a plugin has no process with it; "refused": it does not
	// show the keys that it should; or "login failed". It gets calls in OK alone.
	State string `json:"state"`
	// Error is why it is not OK.
	Error    string `json:"error,omitempty"`
	InFlight int    `json:"inFlight"` // calls under way
}

// PluginHealth is a plugin process.
type PluginHealth struct {
	Name     string    `json:"name"`
	Token    string    `json:"token"`
	Member   string    `json:"member,omitempty"` // of the token, if it has any
	State    string    `json:"state"`            // OK, "starting", "failed", "refused", "login failed" or "closed"
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"`
	// FailedStarts counts the processes that did not start.
	FailedStarts int    `json:"failedStarts,omitempty"`
	LastError    string `json:"lastError,omitempty"`
	// LastErrorAt is when that was.
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	// Hanging says which creations of keys the token does not get done.
	Hanging string `json:"hanging,omitempty"`
	// Limits are what the token does not do now that it should.
	Limits   []string `json:"limits,omitempty"`
	PID      int      `json:"pid"`
	InFlight int      `json:"inFlight"`
	Sessions int      `json:"sessions"` // PKCS#11 sessions open
	// Facts are what probing found in the token, and Unsupported the key specs
	// that it cannot hold, each with the mechanism that it lacks.
	Facts       map[string]string `json:"facts,omitempty"`
	Unsupported map[string]string `json:"unsupported,omitempty"`
}

// RecipientAlgorithms are the algorithms that all tokens have to encrypt answers to a
// recipient's public key, by the names of the API, in alphabetical order.
type RecipientAlgorithms struct {
	Algorithms []string `json:"algorithms"`
}

// ConfirmedClock is the time that an operator has said is right.
type ConfirmedClock struct {
	Now time.Time `json:"now"`
}

// Reloaded is the answer to a reload that succeeded.
type Reloaded struct {
	Warnings []string `json:"warnings"` // as in [Health]
}
