// Package trail reads the audit trail of package audit: it finds records, follows
// what is written, sums it up and writes it in CloudTrail's form. It verifies
// nothing, and needs no more than the right to read the files.
package trail

import (
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is a record of the trail, as far as lists show it; [Event.Details] has more.
// Line is all of it.
type Event struct {
	EventTime   time.Time  `json:"eventTime"`
	EventSource string     `json:"eventSource"`
	EventName   string     `json:"eventName"`
	AWSRegion   string     `json:"awsRegion"`
	ErrorCode   string     `json:"errorCode"` // "": it succeeded
	AccountID   string     `json:"recipientAccountId"`
	Sequence    uint64     `json:"sequence"`
	Identity    Identity   `json:"userIdentity"`
	Resources   []Resource `json:"resources"`

	Line []byte `json:"-"` // without its newline
}

// Details are further members of a record.
type Details struct {
	EventID    string         `json:"eventID"`
	RequestID  string         `json:"requestID"`
	Parameters jsontext.Value `json:"requestParameters"`
}

// Details reads them in the line.
func (e *Event) Details() (d Details) {
	_ = json.Unmarshal(e.Line, &d) // a line that is not a record has none
	return d
}

// Identity is the caller: userIdentity.
type Identity struct {
	PrincipalID string `json:"principalId"`
	ARN         string `json:"arn"`
	UserName    string `json:"userName"`
	InvokedBy   string `json:"invokedBy"`
}

// Principal is the name that the caller has in lists: the ARN, or the service.
func (i *Identity) Principal() string {
	switch {
	case i.ARN != "":
		return i.ARN
	case i.UserName != "":
		return i.UserName
	default:
		return i.InvokedBy
	}
}

// Resource is a key that the record is about.
type Resource struct {
	ARN string `json:"ARN"`
}

// Outcomes of records.
const (
	OK      = "ok"
	Refused = "refused" // by a policy, or for want of a role
	Failed  = "failed"  // for any other reason
)

// refusals are the error codes of calls that were refused.
var refusals = []string{"AccessDeniedException", "NotAuthorizedException"}

// Outcome is how it ended.
func (e *Event) Outcome() string {
	if e.ErrorCode == "" {
		return OK
	}
	for _, code := range refusals {
		if e.ErrorCode == code {
			return Refused
		}
	}
	return Failed
}

// Keys are the IDs of the keys that the record is about.
func (e *Event) Keys() []string {
	var ids []string
	for _, r := range e.Resources {
		if _, id, ok := strings.Cut(r.ARN, ":key/"); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// readName is the eventName of those who had the daemon read the trail.
const readName = "ReadAuditTrail"

// checkpointName is the eventName of the log's signatures.
const checkpointName = "AuditCheckpoint"
