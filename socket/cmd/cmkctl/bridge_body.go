package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"cmkd/socket/sigv4"
)

// maxBody is the longest body of a request, in bytes: that of the daemon.
const maxBody = 1 << 20

// Most bodies are short. A longer one needs a place while it is read and served,
// so that a bridge holds at most strangerBodies+friendBodies of maxBody, and
// largeBody for each connection.
const (
	largeBody      = 64 << 10
	strangerBodies = 16
	friendBodies   = 64
)

// bodyTime is how long a body may take to arrive, and placeTime how long it may
// wait for its place.
const (
	bodyTime  = 10 * time.Second
	placeTime = 10 * time.Second
)

// largeBodies are the places for bodies over largeBody, for connections on which
// nothing was signed well so far, and for the others.
type largeBodies struct{ strangers, friends chan struct{} }

func newLargeBodies() largeBodies {
	return largeBodies{make(chan struct{}, strangerBodies), make(chan struct{}, friendBodies)}
}

// enter waits for a place for the body of a request, if it needs one, until it
// leaves.
func (l *largeBodies) enter(r *http.Request, friend bool) (leave func(), err error) {
	if r.ContentLength >= 0 && r.ContentLength <= largeBody {
		return func() {}, nil
	}
	if r.ContentLength > maxBody {
		return nil, errBodyTooLarge
	}
	places := l.strangers
	if friend {
		places = l.friends
	}
	timeout := time.NewTimer(placeTime)
	defer timeout.Stop()
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-timeout.C:
	case <-r.Context().Done():
	}
	return nil, &refusal{status: http.StatusServiceUnavailable, code: "ServiceUnavailableException", message: "The bridge reads too many large requests at once."}
}

// readBody reads the body of a request.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, errBodyTooLarge
	}
	if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, code: "SerializationException", message: "The body of the request cannot be read."}
	}
	return body, control.SetReadDeadline(time.Time{})
}

// refusal is an error of the AWS JSON 1.1 protocol.
type refusal struct {
	status        int
	code, message string
}

var errBodyTooLarge = &refusal{status: http.StatusBadRequest, code: "RequestEntityTooLargeException", message: "The request is too large."}

// Error implements error.
func (r *refusal) Error() string { return r.code + ": " + r.message }

// signatureRefusal is the refusal of a signature.
func signatureRefusal(err error) error {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return &refusal{status: http.StatusBadRequest, code: e.Code, message: e.Message}
	}
	return err
}

// write answers with the refusal.
func (r *refusal) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", uuid.NewString())
	w.WriteHeader(r.status)
	// The client may be gone.
	_ = json.NewEncoder(w).Encode(struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}{r.code, r.message})
}
