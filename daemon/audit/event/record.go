// Package event is what a record of the audit trail says, in the form of CloudTrail's events,
// and how it is written: within limits, whatever a caller puts in.
package event

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Record is one API call, or something that the service or the log did by
// itself, in the fields of a CloudTrail event.
// https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
//
// The log is read by people and shipped elsewhere: a record must not hold
// plaintext, key material (wrapped key material included), PINs, grant or
// import tokens, or access keys' secrets, in any field. Whoever makes the
// record redacts; the log writes what it is given.
type Record struct {
	EventVersion string    // "" is "1.11"
	EventTime    time.Time // zero is now; written in UTC, to the millisecond
	EventSource  string    // "" is "kms.amazonaws.com"
	EventName    string    // the operation, such as "Decrypt"
	AWSRegion    string
	UserIdentity UserIdentity
	// SourceIPAddress is omitted if empty: callers on a Unix socket have none.
	SourceIPAddress string
	UserAgent       string // omitted if empty
	ErrorCode       string // omitted if empty: the call succeeded
	ErrorMessage    string // omitted if empty
	// RequestParameters and ResponseElements are JSON values; nil is null.
	RequestParameters   jsontext.Value
	ResponseElements    jsontext.Value
	AdditionalEventData AdditionalEventData
	RequestID           string
	EventID             string // "" is a new random UUID
	ReadOnly            bool
	Resources           []Resource
	EventType           string // "" is "AwsApiCall"
	ManagementEvent     bool
	RecipientAccountID  string

	// Terse bounds the words of a caller who may nothing: UserAgent, ErrorMessage
	// and RequestParameters take 1 KiB at most.
	Terse bool

	// ServiceEventDetails is what a service event says about what happened: a JSON
	// value; nil is omitted.
	ServiceEventDetails jsontext.Value
}

// UserIdentity is who made the call. Empty fields but Type are omitted.
type UserIdentity struct {
	Type        string // such as "IAMUser", "Root", "AssumedRole"
	PrincipalID string
	ARN         string
	AccountID   string
	AccessKeyID string
	UserName    string
	InvokedBy   string
}

// Resource is a key that the call was about.
type Resource struct {
	ARN       string
	AccountID string
	Type      string // "" is "AWS::KMS::Key"
}

// AdditionalEventData is what CloudTrail has no field for: the process at the
// other end of the socket, and why it was or was not allowed.
type AdditionalEventData struct {
	Peer *Peer // nil is omitted
	// Decision is "Allow" or "Deny", Reason what decided, such as the Sid of
	// a policy statement. Both are omitted if empty.
	Decision string
	Reason   string
	// Recipient is what the attestation document of the call says, CloudTrail's
	// field of that name: a JSON value; nil is omitted.
	Recipient jsontext.Value
	// Details is any further JSON value; nil is omitted.
	Details jsontext.Value
	// DatabaseSequence is of the commit that the record was written ahead of:
	// a database whose head has a lower one does not have the change. 0 is
	// omitted.
	DatabaseSequence uint64
	// Node is the daemon that writes the record, where several have one database. The log
	// fills it in; "" is omitted.
	Node string
}

// Peer is the process that connected to the socket (SO_PEERCRED, unix(7)).
type Peer struct {
	UID        uint32
	GID        uint32
	PID        int32
	Executable string // omitted if empty
}
