package kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/attestation"
	"cmkd/daemon/audit"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// Caller is who calls, as the kernel told (SO_PEERCRED).
type Caller struct {
	Principal policy.Principal
	// Policies are the identity policies of the principal and its groups.
	Policies []*policy.Document
	// Admin: root, or named in the configuration's admins.
	Admin bool
	UID   uint32
	GID   uint32
	PID   int32
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
	// used are the keys that count as used if the call succeeds.
	used []*store.Key
	// attested is the attestation document of the recipient, nil without one.
	attested *attestation.Document
	record   audit.Record
}

// Dispatch answers one call: every answer, refusal and error is on record
// before it leaves, and nothing is done that cannot be recorded. It never
// returns nil.
func (s *Service) Dispatch(ctx context.Context, caller *Caller, r *kmsapi.Request) *kmsapi.Answer {
	ctx = backends.WithCaller(ctx, caller.UID)
	c := &Call{caller: *caller, region: s.region, view: s.store.View()}
	s.openRecord(c, r)
	if s.trail.Err() != nil { // the daemon has logged it, once
		return noTrail()
	}
	out, err := s.serve(ctx, c, r)
	if err != nil {
		return s.refuse(ctx, c, err)
	}
	if len(c.used) > 0 { // GetKeyLastUsage names the event
		c.record.EventID = uuid.NewString()
	}
	body := out.AppendJSON(nil)
	if !s.recordCall(ctx, c) {
		return noTrail()
	}
	s.usages.note(c)
	return &kmsapi.Answer{Status: 200, Body: body}
}

// Refuse answers a call that does not come to its operation with e, on record.
func (s *Service) Refuse(ctx context.Context, caller *Caller, r *kmsapi.Request, e *kmsapi.Error) *kmsapi.Answer {
	c := &Call{caller: *caller, region: s.region, view: s.store.View()}
	s.openRecord(c, r)
	return s.refuse(ctx, c, e)
}

// RecordRefusal puts a call on record that was refused with e before it came
// here. It reports whether that is done, so that the call may be answered.
func (s *Service) RecordRefusal(ctx context.Context, caller *Caller, r *kmsapi.Request, e *kmsapi.Error) bool {
	c := &Call{caller: *caller, region: s.region}
	s.openRecord(c, r)
	return s.recordError(ctx, c, e)
}

// RecordRefusals puts on record that so many more calls of the caller were
// refused because of the socket's limits.
func (s *Service) RecordRefusals(ctx context.Context, caller *Caller, calls int) error {
	c := &Call{caller: *caller, region: s.region}
	s.openRecord(c, &kmsapi.Request{Operation: "RefusedCalls"})
	c.record.ErrorCode, c.record.ErrorMessage = kmsapi.CodeThrottlingException, "Rate exceeded"
	c.record.AdditionalEventData.Details = jsontext.Value(fmt.Sprintf(`{"calls":%d}`, calls))
	return s.trail.Append(ctx, &c.record)
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
	c.record.Resources = append(c.record.Resources, audit.Resource{AccountID: s.account, Type: "AWS::KMS::Key", ARN: arn})
}

// serve finds the operation and runs it.
func (s *Service) serve(ctx context.Context, c *Call, r *kmsapi.Request) (answer, error) {
	op, ok := operations[r.Operation]
	if !ok {
		if why, known := unsupported[r.Operation]; known {
			return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s", why)
		}
		return nil, &kmsapi.Error{Code: kmsapi.CodeUnknownOperationException}
	}
	c.op = op
	c.record.ReadOnly = op.readOnly
	if s.Mismatch() != nil && !op.inspects() {
		return nil, errUnverified()
	}
	if err := s.rates.take(op.name); err != nil {
		return nil, err
	}
	if r.Region != "" {
		if !s.regions[r.Region] {
			return nil, kmsapi.Errorf(kmsapi.CodeInvalidSignatureException,
				"Credential should be scoped to a valid region, not '%s'.", r.Region)
		}
		c.region = r.Region
		c.record.AWSRegion = r.Region
	}
	return op.serve(ctx, s, c, r.Body)
}

// refuse records the error and answers it.
func (s *Service) refuse(ctx context.Context, c *Call, err error) *kmsapi.Answer {
	e := s.apiError(c, err)
	if e.Status() >= 500 || backendTrouble(err) {
		level := slog.LevelError
		// If the caller has gone, or is cut off, whoever calls could fill the log.
		if ctx.Err() != nil || backends.CodeOf(err) == backends.CutOff {
			level = slog.LevelDebug
		}
		s.log.LogAttrs(ctx, level, "call failed", slog.String("operation", c.record.EventName),
			slog.String("request", c.record.RequestID), slog.String("key", c.arn), slog.Any("error", err))
	}
	if !s.recordError(ctx, c, e) {
		return noTrail()
	}
	return kmsapi.AnswerError(e)
}

// recordError records the call with the error that answers it.
func (s *Service) recordError(ctx context.Context, c *Call, e *kmsapi.Error) bool {
	c.record.ErrorCode = e.Code
	if e.Code == kmsapi.CodeAccessDeniedException {
		c.record.ErrorCode = "AccessDenied" // as CloudTrail writes it
	}
	c.record.ErrorMessage = e.Message
	return s.recordCall(ctx, c)
}

// recordCall puts the call on record, also if the caller has gone. If it
// returns false, whatever the call did, its answer must not leave.
func (s *Service) recordCall(ctx context.Context, c *Call) bool {
	err := s.trail.Append(context.WithoutCancel(ctx), &c.record)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "call is not recorded, its answer is withheld", slog.String("operation", c.record.EventName),
			slog.String("request", c.record.RequestID), slog.String("key", c.arn), slog.Any("error", err))
	}
	return err == nil
}

// noTrail is the answer when the record of a call cannot be written.
func noTrail() *kmsapi.Answer {
	return kmsapi.AnswerError(kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The audit trail cannot be written."))
}

// openRecord fills in what is known of every call.
func (s *Service) openRecord(c *Call, r *kmsapi.Request) {
	c.record = audit.Record{
		EventTime: s.now(),
		EventName: r.Operation,
		AWSRegion: c.region,
		UserAgent: r.UserAgent,
		RequestID: r.RequestID,
		UserIdentity: audit.UserIdentity{
			Type: "IAMUser", ARN: c.caller.Principal.DisplayARN(), AccountID: s.account, UserName: c.caller.Principal.UserName,
			AccessKeyID: c.caller.AccessKeyID, PrincipalID: c.caller.Principal.UserID(),
		},
		RecipientAccountID: s.account,
		AdditionalEventData: audit.AdditionalEventData{
			Peer: &audit.Peer{UID: c.caller.UID, GID: c.caller.GID, PID: c.caller.PID},
		},
		ManagementEvent: true,
	}
	switch c.caller.Principal.Type {
	case policy.Root:
		c.record.UserIdentity.Type = "Root"
	case policy.Role:
		c.record.UserIdentity.Type = "AssumedRole"
	default:
	}
}

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
