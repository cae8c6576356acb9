package socket

import (
	"net/http"
	"strconv"

	"github.com/google/uuid"
)

// refusal is an answer that the server itself gives, in the form of the AWS
// JSON 1.1 protocol: every SDK takes the code from __type.
type refusal struct {
	status        int
	code, message string
	body          []byte
	length        []string // Content-Length
}

func newRefusal(status int, code, message string) *refusal {
	body := []byte(`{"__type":"` + code + `","message":"` + message + `"}`)
	return &refusal{status: status, code: code, message: message, body: body, length: []string{strconv.Itoa(len(body))}}
}

var (
	refusedThrottled  = newRefusal(http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	refusedDraining   = newRefusal(http.StatusServiceUnavailable, "ServiceUnavailableException", "The service is stopping. Try again.")
	refusedTooLarge   = newRefusal(http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", "The request is too large.")
	refusedUnrecorded = newRefusal(http.StatusInternalServerError, "KMSInternalException", "The audit trail cannot be written.")
	refusedPanicked   = newRefusal(http.StatusInternalServerError, "KMSInternalException", "The request was rejected because an internal exception occurred.")

	refusalContentType = []string{"application/x-amz-json-1.1"}
	refusalClose       = []string{"close"}
)

// refuse answers with why, once [Config.Refused] has been told. The connection
// is closed afterwards if its client should not go on with it.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, why *refusal, closeConn bool) {
	id := uuid.NewString()
	if s.cfg.Refused != nil && !s.cfg.Refused(r, id, why.code, why.message) {
		why = refusedUnrecorded
	}
	why.write(w, id, closeConn)
}

func (r *refusal) write(w http.ResponseWriter, id string, closeConn bool) {
	h := w.Header()
	h["Content-Type"] = refusalContentType
	h["Content-Length"] = r.length
	h["X-Amzn-Requestid"] = []string{id}
	if closeConn {
		h["Connection"] = refusalClose
	}
	w.WriteHeader(r.status)
	// A client that has gone needs no answer.
	_, _ = w.Write(r.body)
}
