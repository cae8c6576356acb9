// Package operatorapi is the wire format of the endpoints for operators: JSON over
// HTTP, on the same socket as the KMS API. The daemon answers in these types and
// cmkctl reads them, so that neither has a copy of its own.
//
// The names of the members are a contract: scripts read them. A member that is added
// is left out while it is empty, so that older answers stay as they were.
package operatorapi

import "net/http"

// Endpoint is one endpoint, with what is sent to it and what it answers.
type Endpoint[In, Out any] struct {
	Method, Path string
	// Name is the eventName of its records in the audit trail.
	Name string
}

// None is the body of a request that has none, or the empty object.
type None struct{}

// The endpoints.
var (
	Status        = Endpoint[None, Health]{http.MethodGet, "/status", "GetStatus"}
	Recipient     = Endpoint[None, RecipientAlgorithms]{http.MethodGet, "/recipient", "GetRecipientAlgorithms"}
	ConfirmClock  = Endpoint[None, ConfirmedClock]{http.MethodPost, "/confirm-clock", "ConfirmClock"}
	AcceptState   = Endpoint[AcceptRequest, Acceptance]{http.MethodPost, "/accept-state", "AcceptState"}
	VerifyTrail   = Endpoint[None, VerifiedTrail]{http.MethodPost, "/audit/verify", "VerifyAuditTrail"}
	PruneTrail    = Endpoint[PruneRequest, PruneAnswer]{http.MethodPost, "/audit/prune", "PruneAuditTrail"}
	ReadTrail     = Endpoint[TrailQuery, File]{http.MethodPost, "/audit/read", "ReadAuditTrail"}
	Backup        = Endpoint[None, File]{http.MethodPost, "/backup", "BackUpDatabase"}
	VerifyBackup  = Endpoint[BackupSeal, VerifiedBackup]{http.MethodPost, "/backup/verify", "VerifyBackup"}
	Reload        = Endpoint[None, Reloaded]{http.MethodPost, "/reload", "ReloadConfiguration"}
	Recover       = Endpoint[RecoverRequest, Inventory]{http.MethodPost, "/recover", "RecoverKeys"}
	ExplainPolicy = Endpoint[PolicyQuestion, Explanation]{http.MethodPost, "/policy/explain", "ExplainPolicy"}
	WhoMay        = Endpoint[PolicyQuestion, Allowed]{http.MethodPost, "/policy/who", "ListAllowedPrincipals"}
	CheckPolicy   = Endpoint[CheckRequest, PolicyCheck]{http.MethodPost, "/policy/check", "CheckPolicy"}
	MakeKeyPolicy = Endpoint[KeyPolicyRequest, KeyPolicy]{http.MethodPost, "/policy/key", "MakeKeyPolicy"}
	MetricsPath   = "/metrics" // in the text format of Prometheus
	MetricsName   = "GetMetrics"
)
