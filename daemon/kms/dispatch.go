package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

// Dispatch answers one call: every answer, refusal and error is on record
// before it leaves, and nothing is done that cannot be recorded. It never
// returns nil.
func (s *Service) Dispatch(ctx context.Context, caller *Caller, r *kmsapi.Request) *kmsapi.Answer {
	ctx = backends.WithCaller(ctx, caller.UID)
	c := s.newCall(caller, r)
	c.renewals = s.absences.ended.Load()
	if err := s.begin(c); err != nil {
		return noTrail()
	}
	defer s.end(c)
	out, err := s.serve(ctx, c, r)
	if late := s.acknowledged(ctx); late != nil {
		if err == nil {
			out.Wipe()
		}
		err = late
	}
	if err != nil {
		return s.refuse(ctx, c, s.doubt(ctx, c, err))
	}
	if len(c.used) > 0 { // GetKeyLastUsage names the event
		c.record.EventID = kmsapi.NewID()
	}
	answer := r.Answer(out)
	out.Wipe()
	if !s.recordCall(ctx, c) {
		clear(answer.Body)
		return noTrail()
	}
	s.usages.note(c)
	s.recheckUsed(ctx, c)
	return answer
}

// Refuse answers a call that does not come to its operation with e, on record.
func (s *Service) Refuse(ctx context.Context, caller *Caller, r *kmsapi.Request, e *kmsapi.Error) *kmsapi.Answer {
	c := s.newCall(caller, r)
	if err := s.begin(c); err != nil {
		return noTrail()
	}
	defer s.end(c)
	return s.refuse(ctx, c, e)
}

// RecordRefusal records a call, or counts it, that was refused with e
// before it came here. It reports whether that is done, so that the call may be
// answered. Even administrators get only so many records of such calls.
func (s *Service) RecordRefusal(ctx context.Context, caller *Caller, r *kmsapi.Request, e *kmsapi.Error) bool {
	if !s.refusals.take(caller) {
		return s.trail.Err() == nil
	}
	c := s.newCall(caller, r)
	if err := s.begin(c); err != nil {
		return false
	}
	defer s.end(c)
	c.record.Terse = true
	return s.writeError(ctx, c, e)
}

// serve finds the operation and runs it.
func (s *Service) serve(ctx context.Context, c *Call, r *kmsapi.Request) (kmsapi.Output, error) {
	serve, ok := s.operations[r.Operation]
	if !ok {
		return nil, &kmsapi.Error{Code: kmsapi.CodeUnknownOperationException}
	}
	c.op = keys.ActionOf(r.Operation)
	s.calls.describe(c, c.op.ReadOnly, c.region, nil)
	if s.Mismatch() != nil && !c.op.Inspects() {
		return nil, errUnverified()
	}
	if err := s.rates.take(c.op.Operation()); err != nil {
		return nil, err
	}
	if r.Region != "" {
		if !s.regions[r.Region] {
			return nil, kmsapi.Errorf(kmsapi.CodeInvalidSignatureException,
				"Credential should be scoped to a valid region, not '%s'.", r.Region)
		}
		c.region = r.Region
		s.calls.describe(c, c.op.ReadOnly, c.region, nil)
	}
	return s.decide(ctx, c, serve, r.Body)
}

// refuse records the error and answers it.
func (s *Service) refuse(ctx context.Context, c *Call, err error) *kmsapi.Answer {
	e := s.apiError(c, err)
	s.logTrouble(ctx, c, e, err)
	if !s.recordError(ctx, c, e) {
		return noTrail()
	}
	a := kmsapi.AnswerError(e)
	a.Excess = c.excess
	return a
}
