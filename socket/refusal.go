package socket

import (
	"net/http"
	"strconv"

	"github.com/google/uuid"
)

// refusal is an answer that the server itself gives, in the form of the AWS
// JSON 1.1 protocol: every SDK takes the code from __type.
type refusal struct {
	status int
	body   []byte
	length []string // Content-Length
}

func newRefusal(status int, code, message string) *refusal {
	body := []byte(`{"__type":"` + code + `","message":"` + message + `"}`)
	return &refusal{status: status, body: body, length: []string{strconv.Itoa(len(body))}}
}

var (
	refusedThrottled = newRefusal(http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	refusedDraining  = newRefusal(http.StatusServiceUnavailable, "ServiceUnavailableException", "The service is stopping. Try again.")
	refusedTooLarge  = newRefusal(http.StatusBadRequest, "RequestEntityTooLargeException", "The request is too large.")
	refusedPanicked  = newRefusal(http.StatusInternalServerError, "KMSInternalException", "The request was rejected because an internal exception occurred.")

	refusalContentType = []string{"application/x-amz-json-1.1"}
	refusalClose       = []string{"close"}
)

// write answers with r. The connection is closed afterwards if its client
// should not go on with it.
func (r *refusal) write(w http.ResponseWriter, closeConn bool) {
	h := w.Header()
	h["Content-Type"] = refusalContentType
	h["Content-Length"] = r.length
	h["X-Amzn-Requestid"] = []string{uuid.NewString()}
	if closeConn {
		h["Connection"] = refusalClose
	}
	w.WriteHeader(r.status)
	// A client that has gone needs no answer.
	_, _ = w.Write(r.body)
}
