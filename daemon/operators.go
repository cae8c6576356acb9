package daemon

import (
	"context"
	"errors"

	"cmkd/daemon/identity"
	"cmkd/daemon/journal"
	"cmkd/daemon/operator"
	"cmkd/socket"
	"cmkd/socket/operatorapi"
)

// operators are the endpoints for operators.
func (d *Daemon) operators(server *socket.Server) *operator.Service {
	return operator.New(operator.Config{
		KMS: d.kms, Daemon: operated{d}, AuditDir: d.cfg.AuditDir, Metrics: d.serveMetrics(server), Log: d.log,
		Identities: func() operator.Identities { return asked{d.identities.Load()} },
	})
}

// operated is the daemon as operators have it. It implements [operator.Daemon].
type operated struct{ daemon *Daemon }

// Health implements [operator.Daemon].
func (o operated) Health(ctx context.Context) *operatorapi.Health { return o.daemon.health(ctx) }

// RecipientAlgorithms implements [operator.Daemon].
func (o operated) RecipientAlgorithms() []string { return o.daemon.recipientAlgorithms() }

// Reload implements [operator.Daemon].
func (o operated) Reload(ctx context.Context) error { return o.daemon.Reload(ctx) }

// Warnings implements [operator.Daemon].
func (o operated) Warnings() []string { return o.daemon.warnings() }

// Resume implements [operator.Daemon].
func (o operated) Resume(ctx context.Context) error { return o.daemon.begin(ctx) }

// asked are the identities that operators ask about. It implements
// [operator.Identities].
type asked struct{ ids *identity.Identities }

// Caller implements [operator.Identities].
func (a asked) Caller(ctx context.Context) (*journal.Caller, error) {
	c, err := a.ids.Caller(ctx)
	switch {
	case errors.Is(err, identity.ErrUnmapped):
		err = operator.Forbidden(identity.ErrUnmapped.Error())
	case errors.Is(err, identity.ErrNameless):
		err = operator.Unavailable(identity.ErrNameless.Error(), err)
	}
	return c, err
}

// Named implements [operator.Identities].
func (a asked) Named(text string) (*journal.Caller, error) { return a.ids.Named(text) }

// ByARN implements [operator.Identities].
func (a asked) ByARN(arn string) (*journal.Caller, error) { return a.ids.ByARN(arn) }

// Known implements [operator.Identities].
func (a asked) Known() ([]string, error) { return a.ids.Everybody() }

// Nobody implements [operator.Identities].
func (a asked) Nobody() *journal.Caller { return a.ids.Nobody() }
