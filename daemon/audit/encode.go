package audit

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// MaxRecord is the size of the longest record, as CloudTrail has it, in bytes
// without the fields of the chain.
const MaxRecord = 256 << 10

// What a caller may fill at will has limits of its own, in bytes, as CloudTrail
// has them: no request, however long, makes a record that cannot be written.
// https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
const (
	maxErrorMessage = 1 << 10   // the rest is cut off
	maxElements     = 100 << 10 // longer parameters are left out, see [encoder.elements]
)

var (
	// ErrTooLong: the record is longer than [MaxRecord].
	ErrTooLong = errors.New("the record is too long")
	// ErrInvalidRecord: a field that should be JSON is not.
	ErrInvalidRecord = errors.New("the record is invalid")
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// appendRecord appends r as a JSON object without the closing brace, behind
// which the fields of the chain follow. The order is CloudTrail's.
func appendRecord(dst []byte, r *Record) ([]byte, error) {
	start := len(dst)
	at := r.EventTime
	if at.IsZero() {
		at = time.Now()
	}
	e := encoder{buf: dst}
	e.raw(`{"eventVersion":`).text(orDefault(r.EventVersion, "1.11"))
	e.identity(&r.UserIdentity)
	e.raw(`,"eventTime":"`)
	e.buf = at.UTC().AppendFormat(e.buf, timeFormat)
	e.raw(`","eventSource":`).text(orDefault(r.EventSource, "kms.amazonaws.com"))
	e.raw(`,"eventName":`).text(r.EventName)
	e.raw(`,"awsRegion":`).text(r.AWSRegion)
	e.optional(`,"sourceIPAddress":`, r.SourceIPAddress)
	e.optional(`,"userAgent":`, r.UserAgent)
	e.optional(`,"errorCode":`, r.ErrorCode)
	e.optional(`,"errorMessage":`, shortened(r.ErrorMessage, maxErrorMessage))
	e.elements(`,"requestParameters":`, r.RequestParameters)
	e.elements(`,"responseElements":`, r.ResponseElements)
	e.additional(&r.AdditionalEventData)
	e.optional(`,"requestID":`, r.RequestID)
	e.raw(`,"eventID":`)
	if r.EventID == "" {
		e.text(uuid.NewString())
	} else {
		e.text(r.EventID)
	}
	e.raw(`,"readOnly":`).boolean(r.ReadOnly)
	e.resources(r.Resources)
	e.raw(`,"eventType":`).text(orDefault(r.EventType, "AwsApiCall"))
	e.raw(`,"managementEvent":`).boolean(r.ManagementEvent)
	e.optional(`,"recipientAccountId":`, r.RecipientAccountID)
	if r.ServiceEventDetails != nil {
		e.value(`,"serviceEventDetails":`, r.ServiceEventDetails)
	}
	if r.ManagementEvent {
		e.raw(`,"eventCategory":"Management"`)
	}
	if e.err != nil {
		return dst, e.err
	}
	if n := len(e.buf) - start; n > MaxRecord {
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, MaxRecord)
	}
	return e.buf, nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// encoder appends JSON without reflection: every call on the socket passes
// here.
type encoder struct {
	buf []byte
	err error // of the first value that is not JSON
}

// raw appends punctuation and member names.
func (e *encoder) raw(s string) *encoder {
	e.buf = append(e.buf, s...)
	return e
}

// text appends a JSON string. Invalid UTF-8 becomes U+FFFD: an audit record
// must not fail because a caller sent bad bytes.
func (e *encoder) text(s string) {
	e.buf, _ = jsontext.AppendQuote(e.buf, s)
}

func (e *encoder) optional(name, s string) {
	if s != "" {
		e.raw(name).text(s)
	}
}

func (e *encoder) boolean(b bool) { e.buf = strconv.AppendBool(e.buf, b) }

// value appends a JSON value on one line. It is as strict as the verification
// of the log: valid UTF-8, no duplicate names.
func (e *encoder) value(name string, v jsontext.Value) {
	e.raw(name)
	if v == nil {
		e.raw("null")
		return
	}
	n := len(e.buf)
	buf, err := jsontext.AppendFormat(e.buf, v, jsontext.PreserveRawStrings(true))
	if err != nil && e.err == nil { // its text could quote the value
		e.err = fmt.Errorf("%w: %s is not JSON", ErrInvalidRecord, name[1:len(name)-1])
	}
	if err != nil || len(buf) == n {
		buf = append(buf[:n], "null"...)
	}
	e.buf = buf
}

// elements is value for what may be of any length: beyond maxElements the
// record says how long it was instead.
func (e *encoder) elements(name string, v jsontext.Value) {
	start := len(e.buf) + len(name)
	e.value(name, v)
	if n := len(e.buf) - start; n > maxElements {
		e.buf = append(e.buf[:start], `{"omitted":true,"originalSize":`...)
		e.buf = strconv.AppendInt(e.buf, int64(n), 10)
		e.raw("}")
	}
}

// shortened is s without what is beyond n bytes, cut between characters.
func shortened(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func (e *encoder) identity(u *UserIdentity) {
	e.raw(`,"userIdentity":{"type":`).text(u.Type)
	e.optional(`,"principalId":`, u.PrincipalID)
	e.optional(`,"arn":`, u.ARN)
	e.optional(`,"accountId":`, u.AccountID)
	e.optional(`,"accessKeyId":`, u.AccessKeyID)
	e.optional(`,"userName":`, u.UserName)
	e.optional(`,"invokedBy":`, u.InvokedBy)
	e.raw("}")
}

func (e *encoder) additional(a *AdditionalEventData) {
	if a.Peer == nil && a.Decision == "" && a.Reason == "" && a.Recipient == nil && a.Details == nil {
		return
	}
	e.raw(`,"additionalEventData":{`)
	n := len(e.buf)
	if p := a.Peer; p != nil {
		e.raw(`,"peer":{"uid":`)
		e.buf = strconv.AppendUint(e.buf, uint64(p.UID), 10)
		e.raw(`,"gid":`)
		e.buf = strconv.AppendUint(e.buf, uint64(p.GID), 10)
		e.raw(`,"pid":`)
		e.buf = strconv.AppendInt(e.buf, int64(p.PID), 10)
		e.optional(`,"executable":`, p.Executable)
		e.raw("}")
	}
	e.optional(`,"decision":`, a.Decision)
	e.optional(`,"reason":`, a.Reason)
	if a.Recipient != nil {
		e.value(`,"recipient":`, a.Recipient)
	}
	if a.Details != nil {
		e.value(`,"details":`, a.Details)
	}
	e.buf = append(e.buf[:n], e.buf[n+1:]...) // the first comma
	e.raw("}")
}

func (e *encoder) resources(resources []Resource) {
	if len(resources) == 0 {
		return
	}
	e.raw(`,"resources":[`)
	for i := range resources {
		if i > 0 {
			e.raw(",")
		}
		r := &resources[i]
		e.raw(`{"ARN":`).text(r.ARN)
		e.optional(`,"accountId":`, r.AccountID)
		e.raw(`,"type":`).text(orDefault(r.Type, "AWS::KMS::Key"))
		e.raw("}")
	}
	e.raw("]")
}
