package kmsapi

import (
	"context"
	"net/http"
	"strings"
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
}

// NewRequest frames an HTTP request, without its body, as a Request.
func NewRequest(r *http.Request, id string) *Request {
	call := &Request{UserAgent: r.UserAgent(), RequestID: id, Header: r.Header, HTTP: r}
	call.AccessKeyID, call.Region = credential(r.Header)
	if routed(r) {
		call.Operation = operation(r.Header)
	}
	return call
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
