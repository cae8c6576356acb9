package kmsapi

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// Request is one call as it came off the wire, not yet decoded.
type Request struct {
	Operation   string      // empty if the request names no operation of the form TrentService.X
	Body        []byte      // at most MaxBodySize bytes; only valid until Dispatch returns
	Region      string      // of the SigV4 credential scope; empty if there is none
	AccessKeyID string      // of the SigV4 credential; empty if there is none. The signature is not checked
	UserAgent   string      // as sent
	RequestID   string      // a UUID made for this call, also sent as x-amzn-RequestId
	Header      http.Header // as sent
	// HTTP is the request itself, for whoever checks its signature. Its body has
	// been read: it is Body.
	HTTP *http.Request
	// Refused is not nil if the body could not be read whole: the error that the call is answered with.
	Refused *Error

	answer Answer
	buffer *bodyBuffer // of the answer's body
}

// NewRequest frames an HTTP request, without its body, as a Request.
func NewRequest(r *http.Request, id string) *Request {
	call := new(Request)
	call.init(r, id)
	return call
}

func (r *Request) init(from *http.Request, id string) {
	r.UserAgent, r.RequestID, r.Header, r.HTTP = from.UserAgent(), id, from.Header, from
	r.AccessKeyID, r.Region = credential(from.Header)
	if routed(from) {
		r.Operation = operation(from.Header)
	}
}

// Answer is the answer of a call that has succeeded. Its body is valid until Dispatch has returned
// it and it has been sent; then it is overwritten.
func (r *Request) Answer(out Output) *Answer {
	if r.buffer == nil {
		r.buffer, _ = bodies.Get().(*bodyBuffer)
	}
	r.buffer.b = out.AppendJSON(r.buffer.b[:0])
	r.answer = Answer{Status: http.StatusOK, Body: r.buffer.b}
	return &r.answer
}

// release gives the buffer of the answer back.
func (r *Request) release() {
	if r.buffer != nil {
		r.buffer.release()
	}
}

// NewID returns a random UUID (RFC 9562, version 4), as requests and events have them.
func NewID() string {
	var id uuid.UUID
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

// routed says whether r goes where calls go.
func routed(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path == "/" }

// Answer is what a call is answered with.
type Answer struct {
	Status int    // of HTTP
	Code   string // of the error, "" if there is none
	Body   []byte // JSON; empty for an operation without output
	// Excess: the caller has had so many refusals lately that this one is only
	// counted. Its connection should be slowed down.
	Excess bool
}

// A Dispatcher performs calls. It answers every request, also one without an operation,
// and never returns nil. It must not keep r.Body.
type Dispatcher interface {
	Dispatch(ctx context.Context, r *Request) *Answer
}

// AnswerError is the answer to a call that failed with e.
func AnswerError(e *Error) *Answer {
	return &Answer{Status: e.Status(), Code: e.Code, Body: e.AppendJSON(nil)}
}

// targetPrefix is the model's metadata.targetPrefix.
const targetPrefix = "TrentService."

// operation takes the operation's name from X-Amz-Target. It is empty unless the name is a plain identifier,
// so that whoever logs it logs no control characters.
func operation(h http.Header) string {
	name, found := strings.CutPrefix(h.Get("X-Amz-Target"), targetPrefix)
	if !found || len(name) > 64 {
		return ""
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return ""
		}
	}
	return name
}

// credential takes the access key id and the Region from the Authorization header of Signature Version 4:
//
//	AWS4-HMAC-SHA256 Credential=<access key id>/<date>/<Region>/<service>/aws4_request, SignedHeaders=..., Signature=...
func credential(h http.Header) (accessKeyID, region string) {
	rest, found := strings.CutPrefix(h.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !found {
		return "", ""
	}
	for field := range strings.SplitSeq(rest, ",") {
		scope, found := strings.CutPrefix(strings.TrimSpace(field), "Credential=")
		if !found {
			continue
		}
		id, rest, _ := strings.Cut(scope, "/")
		_, rest, _ = strings.Cut(rest, "/") // the date
		region, rest, _ := strings.Cut(rest, "/")
		_, last, _ := strings.Cut(rest, "/") // behind the service
		if last != "aws4_request" {
			return "", ""
		}
		return id, region
	}
	return "", ""
}
