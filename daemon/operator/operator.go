// Package operator is what the daemon offers its operators beside the KMS API: a table
// of endpoints, each a row with who may call it and what the audit trail gets of it,
// and a function from a question to an answer. The types of both are in
// socket/operatorapi.
package operator

import (
	"context"
	"log/slog"
	"net/http"

	"cmkd/daemon/journal"
	"cmkd/daemon/kms"
	"cmkd/socket/operatorapi"
)

// Config is what the endpoints work with.
type Config struct {
	KMS    *kms.Service
	Daemon Daemon
	// Identities returns who callers are, by the configuration as it is now.
	Identities func() Identities
	AuditDir   string       // the folder of the audit trail
	Metrics    http.Handler // answers in the text format of Prometheus
	Log        *slog.Logger
}

// Daemon is the daemon as a whole.
type Daemon interface {
	// Health says how the daemon is.
	Health(ctx context.Context) *operatorapi.Health
	// RecipientAlgorithms are those that all tokens have, sorted.
	RecipientAlgorithms() []string
	// Reload reads again who callers are and replaces the plugins. Its error says
	// what is wrong with the configuration.
	Reload(ctx context.Context) error
	// Warnings are those of [operatorapi.Health].
	Warnings() []string
	// Resume does what a daemon does first once it trusts its database.
	Resume(ctx context.Context) error
}

// Identities are who callers are. One value is of one moment: an answer is made with
// the same identities from beginning to end.
type Identities interface {
	// Caller is who is at the other end of the connection. With an error of
	// [Forbidden] or [Unavailable] it returns what is known of one who may do nothing, for the record.
	Caller(ctx context.Context) (*journal.Caller, error)
	// Named is the caller that an operator means; see [operatorapi.PolicyQuestion].
	Named(text string) (*journal.Caller, error)
	// ByARN is the principal of an ARN.
	ByARN(arn string) (*journal.Caller, error)
	// Known are the ARNs of root, of the users of the system, and of whom the
	// configuration names.
	Known() ([]string, error)
	// Nobody is a user of whom nothing is known.
	Nobody() *journal.Caller
}

// Service answers operators.
type Service struct {
	Config

	readers readers
}

// New returns a service.
func New(cfg Config) *Service { return &Service{Config: cfg} }

// Handle adds the endpoints to the mux.
func (s *Service) Handle(mux *http.ServeMux) {
	for _, r := range s.Rows() {
		mux.Handle(r.Method+" "+r.Path, s.handler(&r))
	}
}
