package journal

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"cmkd/socket/kmsapi"
)

// OperatorSource is the eventSource of what AWS KMS does not have.
const OperatorSource = "cmkd"

// Source is the eventSource of everything else.
const Source = "kms.amazonaws.com"

// ErrNoTrail: the audit trail cannot be written, the log says why.
var ErrNoTrail = errors.New("the audit trail cannot be written")

// Operate is the life of a call of an endpoint for operators, recorded like a
// call of the API: r names it in its Operation. do answers it, or says why not;
// an error that is not an [*kmsapi.Error] is recorded as KMSInternalException
// without its text. It must make its changes with the call that it is given. If
// Operate returns [ErrNoTrail], whatever happened, the answer must not leave.
func (s *Journal) Operate(ctx context.Context, caller *Caller, r *kmsapi.Request, do func(*Call) error) error {
	c := s.NewCall(caller, r)
	c.Record.EventSource = OperatorSource
	if s.Open(c) != nil {
		return ErrNoTrail
	}
	defer s.Close(c)
	err := do(c)
	if late := s.Acknowledged(ctx); late != nil {
		err = errors.Join(s.APIError(c, late), err)
	}
	var recorded bool
	if err == nil {
		recorded = s.RecordCall(ctx, c)
	} else {
		e, ok := AsError[*kmsapi.Error](err)
		if !ok {
			e = &kmsapi.Error{Code: kmsapi.CodeKMSInternalException}
		}
		recorded = s.RecordError(ctx, c, e)
	}
	if !recorded {
		return ErrNoTrail
	}
	return err
}

// Decide does what an operator decided and no transaction holds, once it is on
// record. If it fails, a second record says so.
func (s *Journal) Decide(ctx context.Context, c *Call, do func() error) error {
	if err := s.RecordAhead(ctx, c, 0); err != nil {
		return err
	}
	err := do()
	s.Concluded(c, err)
	return err
}

// Describe notes what an operator asks for: whether it changes anything, and
// its parameters, nil or JSON.
func (s *Journal) Describe(c *Call, readOnly bool, parameters jsontext.Value) {
	s.DescribeCall(c, readOnly, c.Region, parameters)
	c.Record.AdditionalEventData.Decision = "Allow"
}
