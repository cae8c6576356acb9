package event

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
)

// MaxRecord is the size of the longest record, as CloudTrail has it, in bytes
// without the fields of the chain. No caller can make a longer one: each field
// has a limit of its own.
const MaxRecord = 256 << 10

var (
	// ErrTooLong: the record is longer than [MaxRecord].
	ErrTooLong = errors.New("the record is too long")
	// ErrInvalidRecord: a field that should be JSON is not.
	ErrInvalidRecord = errors.New("the record is invalid")
)

const TimeFormat = "2006-01-02T15:04:05.000Z"

// Append appends r as a JSON object without the closing brace, behind
// which the fields of the chain follow. The order is CloudTrail's. If it takes
// more than room bytes, which must be at least [fixedRoom], its JSON values are
// cut until it fits.
func Append(dst []byte, r *Record, room int) ([]byte, error) {
	e := encoder{buf: dst, limits: full}
	if r.Terse {
		e.limits = terse
	}
	e.record(r)
	if n := len(e.buf) - len(dst); e.err == nil && n > room {
		e = encoder{buf: e.buf[:len(dst)], limits: e.limits.within(room-n+e.sizes.sum(), e.sizes)}
		e.record(r)
	}
	if e.err != nil {
		return dst, e.err
	}
	if n := len(e.buf) - len(dst); n > room {
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, room)
	}
	return e.buf, nil
}

func (e *encoder) record(r *Record) {
	at := r.EventTime
	if at.IsZero() {
		at = time.Now()
	}
	e.raw(`{"eventVersion":`).text(orDefault(r.EventVersion, "1.11"), maxName)
	e.identity(&r.UserIdentity)
	e.raw(`,"eventTime":"`)
	e.buf = at.UTC().AppendFormat(e.buf, TimeFormat)
	e.raw(`","eventSource":`).text(orDefault(r.EventSource, "kms.amazonaws.com"), maxName)
	e.raw(`,"eventName":`).text(r.EventName, maxName)
	e.raw(`,"awsRegion":`).text(r.AWSRegion, maxName)
	e.optional(`,"sourceIPAddress":`, r.SourceIPAddress, maxName)
	e.optional(`,"userAgent":`, r.UserAgent, e.limits.userAgent)
	e.optional(`,"errorCode":`, r.ErrorCode, maxName)
	e.optional(`,"errorMessage":`, r.ErrorMessage, e.limits.message)
	e.sizes.request = e.value(`,"requestParameters":`, r.RequestParameters, e.limits.request)
	e.sizes.response = e.value(`,"responseElements":`, r.ResponseElements, e.limits.response)
	e.additional(&r.AdditionalEventData)
	e.optional(`,"requestID":`, r.RequestID, maxName)
	e.raw(`,"eventID":`)
	if r.EventID == "" {
		e.text(uuid.NewString(), maxName)
	} else {
		e.text(r.EventID, maxName)
	}
	e.raw(`,"readOnly":`).boolean(r.ReadOnly)
	e.resources(r.Resources)
	e.raw(`,"eventType":`).text(orDefault(r.EventType, "AwsApiCall"), maxName)
	e.raw(`,"managementEvent":`).boolean(r.ManagementEvent)
	e.optional(`,"recipientAccountId":`, r.RecipientAccountID, maxName)
	if r.ServiceEventDetails != nil {
		e.sizes.event = e.value(`,"serviceEventDetails":`, r.ServiceEventDetails, e.limits.details)
	}
	if r.ManagementEvent {
		e.raw(`,"eventCategory":"Management"`)
	}
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
	buf    []byte
	limits limits
	sizes  values
	err    error // of the first value that is not JSON
}

// raw appends punctuation and member names.
func (e *encoder) raw(s string) *encoder {
	e.buf = append(e.buf, s...)
	return e
}

// text appends a JSON string of at most limit bytes. Invalid UTF-8 becomes
// U+FFFD: an audit record must not fail because a caller sent bad bytes.
func (e *encoder) text(s string, limit int) { e.buf = appendBounded(e.buf, s, limit) }

func (e *encoder) optional(name, s string, limit int) {
	if s != "" {
		e.raw(name).text(s, limit)
	}
}

func (e *encoder) boolean(b bool) { e.buf = strconv.AppendBool(e.buf, b) }

// value appends a JSON value on one line, cut to limit bytes, and returns its
// size. It is as strict as the verification of the log: valid UTF-8, no
// duplicate names.
func (e *encoder) value(name string, v jsontext.Value, limit int) int {
	e.raw(name)
	if v == nil {
		e.raw("null")
		return len("null")
	}
	n := len(e.buf)
	buf, err := jsontext.AppendFormat(e.buf, v, jsontext.PreserveRawStrings(true))
	if err != nil && e.err == nil { // its text could quote the value
		e.err = fmt.Errorf("%w: %s is not JSON", ErrInvalidRecord, name[1:len(name)-1])
	}
	switch {
	case err != nil || len(buf) == n:
		buf = append(buf[:n], "null"...)
	case len(buf)-n > limit:
		buf = appendCut(buf[:n], bytes.Clone(buf[n:]), limit)
	}
	e.buf = buf
	return len(buf) - n
}

func (e *encoder) identity(u *UserIdentity) {
	e.raw(`,"userIdentity":{"type":`).text(u.Type, maxName)
	e.optional(`,"principalId":`, u.PrincipalID, maxName)
	e.optional(`,"arn":`, u.ARN, maxARN)
	e.optional(`,"accountId":`, u.AccountID, maxName)
	e.optional(`,"accessKeyId":`, u.AccessKeyID, maxName)
	e.optional(`,"userName":`, u.UserName, maxName)
	e.optional(`,"invokedBy":`, u.InvokedBy, maxName)
	e.raw("}")
}

func (e *encoder) additional(a *AdditionalEventData) {
	if a.Peer == nil && a.Decision == "" && a.Reason == "" && a.Recipient == nil && a.Details == nil && a.DatabaseSequence == 0 && a.Node == "" {
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
		e.optional(`,"executable":`, p.Executable, maxWords)
		e.raw("}")
	}
	e.optional(`,"decision":`, a.Decision, maxName)
	e.optional(`,"reason":`, a.Reason, maxWords)
	if a.Recipient != nil {
		e.sizes.recipient = e.value(`,"recipient":`, a.Recipient, e.limits.details)
	}
	if a.Details != nil {
		e.sizes.details = e.value(`,"details":`, a.Details, e.limits.details)
	}
	if a.DatabaseSequence != 0 {
		e.raw(`,"databaseSequence":`)
		e.buf = strconv.AppendUint(e.buf, a.DatabaseSequence, 10)
	}
	e.optional(`,"node":`, a.Node, maxName)
	e.buf = append(e.buf[:n], e.buf[n+1:]...) // the first comma
	e.raw("}")
}

func (e *encoder) resources(resources []Resource) {
	if len(resources) == 0 {
		return
	}
	e.raw(`,"resources":[`)
	start := len(e.buf)
	for i := range resources {
		end := len(e.buf)
		if i > 0 {
			e.raw(",")
		}
		r := &resources[i]
		e.raw(`{"ARN":`).text(r.ARN, maxARN)
		e.optional(`,"accountId":`, r.AccountID, maxName)
		e.raw(`,"type":`).text(orDefault(r.Type, "AWS::KMS::Key"), maxName)
		e.raw("}")
		if len(e.buf)-start > maxResources {
			e.buf = e.buf[:end]
			break
		}
	}
	e.raw("]")
}
