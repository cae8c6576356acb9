package kms

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/attestation"
	"cmkd/daemon/audit"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Duties are parts in running the daemon, beside the use of keys: a set of bits.
type Duties uint8

// The duties.
const (
	Monitoring Duties = 1 << iota // to see how the daemon is
	Auditing                      // and who did and may do what
	Operating                     // to keep it going
)

// Caller is who calls, as the kernel told (SO_PEERCRED).
type Caller struct {
	Principal policy.Principal
	// Policies are the identity policies of the principal and its groups.
	Policies []*policy.Document
	// Admin: root, or named in the configuration's admins.
	Admin bool
	// Duties are those that the configuration gives, of one who is no administrator too.
	Duties Duties
	UID    uint32
	GID    uint32
	PID    int32
	// AccessKeyID is of the credential that the request is signed with, "" if it
	// was the kernel that told who calls.
	AccessKeyID string
}

// Call is one call on its way through the daemon.
type Call struct {
	caller Caller
	op     *operation
	region string
	view   *store.View
	// arn is of the key admitted last, for errors.
	arn string
	// relied are the keys that the call has decided on, as they were then.
	relied []*store.Key
	// renewals are the processes that had been replaced to look for objects when the
	// call began.
	renewals int64
	// created: the token was asked to make something since the call decided.
	created bool
	// used are the keys that count as used if the call succeeds.
	used []*store.Key
	// attested is the attestation document of the recipient, nil without one.
	attested *attestation.Document
	recording
}

// Dispatch answers one call: every answer, refusal and error is on record
// before it leaves, and nothing is done that cannot be recorded. It never
// returns nil.
func (s *Service) Dispatch(ctx context.Context, caller *Caller, r *kmsapi.Request) *kmsapi.Answer {
	ctx = backends.WithCaller(ctx, caller.UID)
	c := s.newCall(caller, r)
	if err := s.begin(c); err != nil {
		return noTrail()
	}
	defer s.end(c)
	out, err := s.serve(ctx, c, r)
	if err != nil {
		return s.refuse(ctx, c, s.doubt(ctx, c, err))
	}
	if len(c.used) > 0 { // GetKeyLastUsage names the event
		c.record.EventID = uuid.NewString()
	}
	body := out.AppendJSON(nil)
	out.Wipe()
	if !s.recordCall(ctx, c) {
		clear(body)
		return noTrail()
	}
	s.usages.note(c)
	s.recheckUsed(ctx, c)
	return &kmsapi.Answer{Status: 200, Body: body}
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

func (s *Service) newCall(caller *Caller, r *kmsapi.Request) *Call {
	c := &Call{caller: *caller, region: s.region, view: s.store.View(), renewals: s.absences.ended.Load()}
	s.openRecord(c, r)
	return c
}

// decided notes what the policies said.
func (c *Call) decided(d policy.Decision) {
	c.record.AdditionalEventData.Decision = "Deny"
	if d.Allowed {
		c.record.AdditionalEventData.Decision = "Allow"
	}
	c.record.AdditionalEventData.Reason = d.String()
}

// admitted notes the key that the call is about.
func (c *Call) admitted(s *Service, arn string) {
	c.arn = arn
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	c.record.Resources = append(c.record.Resources, audit.Resource{AccountID: s.account, Type: "AWS::KMS::Key", ARN: arn})
}

// serve finds the operation and runs it.
func (s *Service) serve(ctx context.Context, c *Call, r *kmsapi.Request) (kmsapi.Output, error) {
	op, ok := s.operations[r.Operation]
	if !ok {
		return nil, &kmsapi.Error{Code: kmsapi.CodeUnknownOperationException}
	}
	c.op = op
	s.calls.describe(c, op.ReadOnly, c.region, nil)
	if s.Mismatch() != nil && !op.Inspects() {
		return nil, errUnverified()
	}
	if err := s.rates.take(op.Operation()); err != nil {
		return nil, err
	}
	if r.Region != "" {
		if !s.regions[r.Region] {
			return nil, kmsapi.Errorf(kmsapi.CodeInvalidSignatureException,
				"Credential should be scoped to a valid region, not '%s'.", r.Region)
		}
		c.region = r.Region
		s.calls.describe(c, op.ReadOnly, c.region, nil)
	}
	return s.decide(ctx, c, r.Body)
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

// Excess reports whether the caller has had so many refusals lately that that of
// this call is only counted.
func (c *Call) Excess() bool { return c.excess }

func asError[E error](err error) (E, bool) { return errors.AsType[E](err) }

// executable is the path of the caller's program. It is advisory: the process
// may have been replaced since it connected.
func (c *Caller) executable() string {
	path, err := os.Readlink("/proc/" + strconv.Itoa(int(c.PID)) + "/exe")
	if err != nil {
		return ""
	}
	return path
}
