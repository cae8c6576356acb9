package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
	"cmkd/socket/operatorapi"
)

// Who may call an endpoint: a set of bits.
type Who uint16

const (
	// Admins are root and the configuration's admins, who may call every endpoint.
	Admins Who = 0
	// Monitors, auditors and operators are those of the configuration.
	Monitors  = Who(journal.Monitoring)
	Auditors  = Who(journal.Auditing)
	Operators = Who(journal.Operating)
	// Anyone is whoever reaches the socket.
	Anyone Who = 1 << 8
)

// includes reports whether the caller may call the endpoints of w.
func (w Who) includes(c *journal.Caller) bool {
	return c.Admin || w&Anyone != 0 || w&Who(c.Duties) != 0
}

// String names them, in the words of the configuration.
func (w Who) String() string {
	if w&Anyone != 0 {
		return "anyone"
	}
	names := []string{"admins"}
	for _, d := range []struct {
		who  Who
		name string
	}{{Auditors, "auditors"}, {Operators, "operators"}, {Monitors, "monitors"}} {
		if w&d.who != 0 {
			names = append(names, d.name)
		}
	}
	return strings.Join(names, ", ")
}

// Recorded is which calls of an endpoint are in the audit trail.
type Recorded string

const (
	// Always: each call. Its answer leaves once its record is on disk.
	Always Recorded = "always"
	// Refusals: calls of those who may not. The others are what monitoring asks all
	// the time, and are answered even if nothing can be recorded.
	Refusals Recorded = "refusals"
	// Never: it tells everybody the same.
	Never Recorded = "never"
)

// Row is an endpoint.
type Row struct {
	Method, Path string
	Name         string // eventName
	Who          Who
	Recorded     Recorded
	// Looks: it changes nothing. A request with a method ReadOnly says so itself.
	Looks bool
	// Rows: the answer is made of the database's rows, and does not leave a daemon that others may have
	// changed them without.
	Rows bool
	// Long: it may take longer than a call may.
	Long bool
	// MaxBody is the longest request in bytes; 0: what is sent is not read.
	MaxBody int64

	compact bool         // the answer is one line
	page    http.Handler // answers instead of do
	parse   func(body []byte) (any, error)
	do      func(context.Context, *Caller, any) (any, error)
}

// Caller is who calls an endpoint.
type Caller struct {
	*journal.Caller
	call *journal.Call // what is changed, is changed with it; nil in calls without a record
	ids  Identities
}

// The longest requests in bytes. A question may have a policy, with every character of
// it escaped.
const (
	maxCommand  = 1 << 12
	maxQuery    = 16 << 10
	maxKeys     = 1 << 20
	maxQuestion = 256 << 10
)

// Rows is the table of the endpoints.
func (s *Service) Rows() []Row {
	return []Row{
		row(operatorapi.Status, Row{Who: Monitors | Auditors | Operators, Recorded: Refusals, Looks: true}, s.status),
		{Method: http.MethodGet, Path: operatorapi.MetricsPath, Name: operatorapi.MetricsName, Who: Monitors | Auditors | Operators, Recorded: Refusals, Looks: true, page: s.Metrics},
		row(operatorapi.Recipient, Row{Who: Anyone, Recorded: Never, Looks: true, compact: true}, s.recipient),
		row(operatorapi.ConfirmClock, Row{Who: Admins, Recorded: Always, MaxBody: maxCommand}, s.confirmClock),
		row(operatorapi.AcceptState, Row{Who: Admins, Recorded: Always, MaxBody: maxCommand}, s.acceptState),
		row(operatorapi.Recover, Row{Who: Operators, Recorded: Always, Rows: true, Long: true, MaxBody: maxKeys}, s.recoverKeys),
		file(operatorapi.Backup, Row{Who: Operators, Recorded: Always, Rows: true, Long: true, MaxBody: maxCommand}, s.backup),
		row(operatorapi.VerifyBackup, Row{Who: Auditors | Operators, Recorded: Always, Looks: true, MaxBody: maxCommand}, s.verifyBackup),
		row(operatorapi.Reload, Row{Who: Operators, Recorded: Always, Long: true, MaxBody: maxCommand}, s.reload),
		row(operatorapi.VerifyTrail, Row{Who: Auditors, Recorded: Always, Looks: true, Long: true, MaxBody: maxCommand}, s.verifyTrail),
		file(operatorapi.ReadTrail, Row{Who: Auditors, Recorded: Always, Looks: true, Long: true, MaxBody: maxQuery}, s.readTrail),
		row(operatorapi.PruneTrail, Row{Who: Admins, Recorded: Always, Long: true, MaxBody: maxCommand}, s.pruneTrail),
		question(operatorapi.ExplainPolicy, Row{Who: Auditors, Recorded: Always, Rows: true, Looks: true, MaxBody: maxQuestion}, s.explain),
		question(operatorapi.WhoMay, Row{Who: Auditors, Recorded: Always, Rows: true, Looks: true, MaxBody: maxQuestion}, s.who),
		question(operatorapi.CheckPolicy, Row{Who: Auditors, Recorded: Always, Rows: true, Looks: true, MaxBody: maxQuestion}, s.checkPolicy),
		// It tells nothing but what was asked.
		question(operatorapi.MakeKeyPolicy, Row{Who: Anyone, Recorded: Always, Looks: true, MaxBody: maxQuestion}, s.keyPolicy),
	}
}

// row is the row of an endpoint that do answers.
func row[In, Out any](e operatorapi.Endpoint[In, Out], r Row, do func(context.Context, *Caller, *In) (*Out, error)) Row {
	r.Method, r.Path, r.Name = e.Method, e.Path, e.Name
	r.parse = func(body []byte) (any, error) {
		in := new(In)
		if len(body) == 0 {
			return in, nil
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		return in, dec.Decode(in)
	}
	r.do = func(ctx context.Context, c *Caller, in any) (any, error) { return do(ctx, c, in.(*In)) }
	return r
}

// file is the row of an endpoint that answers with a file.
func file[In any](e operatorapi.Endpoint[In, operatorapi.File], r Row, do func(context.Context, *Caller, *In) (content, error)) Row {
	r = row(e, r, nil)
	r.do = func(ctx context.Context, c *Caller, in any) (any, error) { return do(ctx, c, in.(*In)) }
	return r
}

// question is the row of a question about policies: what is wrong with it is told who
// asks, whether the API has an error for that or not.
func question[In, Out any](e operatorapi.Endpoint[In, Out], r Row, do func(context.Context, *Caller, *In) (*Out, error)) Row {
	return row(e, r, func(ctx context.Context, c *Caller, in *In) (*Out, error) {
		out, err := do(ctx, c, in)
		if _, ok := errors.AsType[*kmsapi.Error](err); err != nil && !ok {
			err = invalid(http.StatusBadRequest, err.Error())
		}
		return out, err
	})
}
