package trail

import (
	"bytes"
	"time"

	"github.com/go-json-experiment/json"

	"cmkd/daemon/audit"
)

// Parse reads a line. One that is not a record is an event with nothing in it but the
// line.
func Parse(line []byte) *Event { return parse(line) }

// parse reads a line. One that is not a record is an event with nothing in it but the
// line: searching goes on, verification says what is wrong.
func parse(line []byte) *Event {
	if e, ok := quickly(line); ok {
		return e
	}
	return slowly(line)
}

// slowly reads any JSON.
func slowly(line []byte) *Event {
	e := &Event{}
	if err := json.Unmarshal(line, e); err != nil {
		e = &Event{Sequence: audit.LineSequence(line)}
	}
	e.Line = line
	return e
}

// Members that the quick way finds a record's parts by, in the order in which package
// audit writes them. What stands before a name are strings, in which quotes are escaped,
// or members of the log's own; so the first one of the name is the record's. Behind
// requestParameters, which a caller has a say in, it is the last one.
var (
	atTime       = []byte(`,"eventTime":"`)
	atParameters = []byte(`,"requestParameters":`)
	atReadOnly   = []byte(`,"readOnly":`)
	atResources  = []byte(`,"resources":[`)
	apiCall      = []byte(`,"eventType":"AwsApiCall","managementEvent":`)
	atARN        = []byte(`{"ARN":"`)
)

// quickly takes a call's record apart without reading all of it: in a tenth of the
// time. It gives up on what it does not expect, such as an escape.
func quickly(line []byte) (*Event, bool) {
	identity, rest, ok := bytes.Cut(line, atTime)
	if !ok {
		return nil, false
	}
	head, rest, ok := bytes.Cut(rest, atParameters)
	tail := audit.LineBody(rest)
	if !ok || len(tail) == len(rest) || len(head) < len(audit.TimeFormat) {
		return nil, false
	}
	call := bytes.LastIndex(tail, apiCall)
	if call < 0 {
		return nil, false // a service event has details of any form
	}
	r := reader{ok: true}
	e := &Event{Line: line, Sequence: audit.LineSequence(line)}
	var err error
	if e.EventTime, err = time.Parse(audit.TimeFormat, string(head[:len(audit.TimeFormat)])); err != nil {
		return nil, false
	}
	e.EventSource, e.EventName = r.text(head, `"eventSource":"`), r.text(head, `"eventName":"`)
	e.AWSRegion, e.ErrorCode = r.text(head, `"awsRegion":"`), r.text(head, `"errorCode":"`)
	e.Identity = Identity{
		PrincipalID: r.text(identity, `"principalId":"`), ARN: r.text(identity, `"arn":"`),
		UserName: r.text(identity, `"userName":"`), InvokedBy: r.text(identity, `"invokedBy":"`),
	}
	e.AccountID = r.text(tail[call:], `"recipientAccountId":"`)
	readOnly := bytes.LastIndex(tail[:call], atReadOnly)
	if readOnly < 0 {
		return nil, false
	}
	if _, resources, ok := bytes.Cut(tail[readOnly:call], atResources); ok {
		for {
			if _, resources, ok = bytes.Cut(resources, atARN); !ok {
				break
			}
			e.Resources = append(e.Resources, Resource{r.until(resources)})
		}
	}
	return e, r.ok
}

// reader reads strings. It is not ok once it has met one that is not plain.
type reader struct{ ok bool }

// text is the string behind a name, "" if the name is not there.
func (r *reader) text(in []byte, name string) string {
	at := bytes.Index(in, []byte(name))
	if at < 0 {
		return ""
	}
	return r.until(in[at+len(name):])
}

// until is the text up to the quote that ends it.
func (r *reader) until(in []byte) string {
	end := bytes.IndexByte(in, '"')
	if end < 0 || bytes.IndexByte(in[:end], '\\') >= 0 {
		r.ok = false
		return ""
	}
	return string(in[:end])
}
