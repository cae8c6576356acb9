package operator

import (
	"context"
	"net/http"
	"slices"

	"cmkd/socket"
	"cmkd/socket/operatorapi"
)

// status tells nothing secret, but it names tokens and processes.
func (s *Service) status(ctx context.Context, _ *Caller, _ *operatorapi.None) (*operatorapi.Health, error) {
	return s.Daemon.Health(ctx), nil
}

// recipient saves clients from finding out by calls that fail. A client asks once;
// who asks all the time is slowed down, since nothing else is in the way of a question
// that costs neither token nor disk.
func (s *Service) recipient(ctx context.Context, _ *Caller, _ *operatorapi.None) (*operatorapi.RecipientAlgorithms, error) {
	socket.Throttled(ctx)
	return &operatorapi.RecipientAlgorithms{Algorithms: s.Daemon.RecipientAlgorithms()}, nil
}

// confirmClock takes an operator's word that the daemon's clock is right.
func (s *Service) confirmClock(ctx context.Context, c *Caller, _ *operatorapi.None) (*operatorapi.ConfirmedClock, error) {
	if leader := s.KMS.Store.Leader(); leader != "" && !s.KMS.Store.Leads() {
		return nil, invalid(http.StatusConflict, "the clock that counts is that of the daemon "+leader+", which leads: confirm it there")
	}
	now, err := s.KMS.ConfirmClock(ctx, c.call)
	if err != nil {
		return nil, failed("the clock was not confirmed, see the daemon's log", err)
	}
	return &operatorapi.ConfirmedClock{Now: now}, nil
}

// reload reloads, and tells an operator what failed. That is all that systemd can
// learn of: a reload by SIGHUP never fails. Plugins may take as long to start as at
// the daemon's own start, and a client that leaves does not stop it.
func (s *Service) reload(ctx context.Context, c *Caller, _ *operatorapi.None) (*operatorapi.Reloaded, error) {
	ctx = context.WithoutCancel(ctx)
	var failure error
	err := s.KMS.Decide(ctx, c.call, func() error {
		failure = s.Daemon.Reload(ctx)
		return failure
	})
	switch {
	case failure != nil:
		return nil, invalid(http.StatusUnprocessableEntity, failure.Error())
	case err != nil:
		return nil, failed("the reload cannot be recorded, see the daemon's log", err)
	}
	warnings := s.Daemon.Warnings()
	if s.KMS.Mismatch() != nil {
		warnings = append(slices.Clone(warnings), "the database or the audit trail does not verify: see cmkctl accept-state")
	}
	return &operatorapi.Reloaded{Warnings: warnings}, nil
}
