package kms

import (
	"context"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

// Dispatch answers one call: every answer, refusal and error is recorded
// before it leaves, and nothing is done that cannot be recorded. It never
// returns nil.
func (s *Service) Dispatch(ctx context.Context, caller *journal.Caller, r *kmsapi.Request) *kmsapi.Answer {
	ctx = backends.WithCaller(ctx, caller.UID)
	c := s.Begin(caller, r)
	c.Renewals = s.Absences.Ended.Load()
	if err := s.Open(c); err != nil {
		return journal.NoTrail()
	}
	defer s.Close(c)
	out, err := s.serve(ctx, c, r)
	if late := s.Answerable(ctx, c, err); late != nil {
		if err == nil {
			out.Wipe()
		}
		err = late
	}
	if err != nil {
		return s.refuse(ctx, c, s.Doubt(ctx, c, err))
	}
	if len(c.Used) > 0 { // GetKeyLastUsage names the event
		c.Record.EventID = kmsapi.NewID()
	}
	answer := r.Answer(out)
	out.Wipe()
	if !s.RecordCall(ctx, c) {
		clear(answer.Body)
		return journal.NoTrail()
	}
	s.NoteUse(c)
	s.RecheckUsed(ctx, c)
	return answer
}

// Refuse answers a call that does not come to its operation with e, and records it.
func (s *Service) Refuse(ctx context.Context, caller *journal.Caller, r *kmsapi.Request, e *kmsapi.Error) *kmsapi.Answer {
	c := s.NewCall(caller, r)
	if err := s.Open(c); err != nil {
		return journal.NoTrail()
	}
	defer s.Close(c)
	return s.refuse(ctx, c, e)
}

// serve finds the operation and runs it.
func (s *Service) serve(ctx context.Context, c *journal.Call, r *kmsapi.Request) (kmsapi.Output, error) {
	serve, ok := s.operations[r.Operation]
	if !ok {
		return nil, &kmsapi.Error{Code: kmsapi.CodeUnknownOperationException}
	}
	c.Op = keys.ActionOf(r.Operation)
	s.DescribeCall(c, c.Op.ReadOnly, c.Region, nil)
	if s.Mismatch() != nil && !c.Op.Inspects() {
		return nil, journal.ErrUnverified()
	}
	if err := s.rates.take(c.Op.Operation()); err != nil {
		return nil, err
	}
	if r.Region != "" {
		if !slices.Contains(s.Regions, r.Region) {
			return nil, kmsapi.Errorf(kmsapi.CodeInvalidSignatureException,
				"Credential should be scoped to a valid region, not '%s'.", r.Region)
		}
		c.Region = r.Region
		s.DescribeCall(c, c.Op.ReadOnly, c.Region, nil)
	}
	return s.decide(ctx, c, serve, r.Body)
}

// refuse records the error and answers it.
func (s *Service) refuse(ctx context.Context, c *journal.Call, err error) *kmsapi.Answer {
	e := s.APIError(c, err)
	s.LogTrouble(ctx, c, e, err)
	if !s.RecordError(ctx, c, e) {
		return journal.NoTrail()
	}
	a := kmsapi.AnswerError(e)
	a.Excess = c.Excess()
	return a
}

// errDryRun is the answer to a call that would have succeeded.
func errDryRun() error {
	return kmsapi.Errorf(kmsapi.CodeDryRunOperationException, "The request would have succeeded, but the DryRun option is set.")
}
