package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"

	"cmkd/socket/sigv4"
)

// MaxBody is the longest body of a request, in bytes: that of the daemon.
const MaxBody = 1 << 20

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
	if r.ContentLength > MaxBody {
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

// readBody reads the body of a request. What it returns may be secret, with an error, too.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
		return nil, err
	}
	body := make([]byte, 0, max(r.ContentLength, bytes.MinRead)+1) // with room to see the end
	for src := http.MaxBytesReader(w, r.Body, MaxBody); ; {
		if len(body) == cap(body) { // growing by append would leave a copy behind
			larger := append(make([]byte, 0, 2*cap(body)), body...)
			clear(body)
			body = larger
		}
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return body, errBodyTooLarge
		}
		if err != nil {
			return body, &refusal{status: http.StatusBadRequest, code: "SerializationException", message: "The body of the request cannot be read."}
		}
	}
	return body, control.SetReadDeadline(time.Time{})
}

// copyAnswer gives the daemon's answer to the client, without what belongs to the
// connection that it came on.
func copyAnswer(w http.ResponseWriter, resp *http.Response) error {
	for _, name := range hopByHop {
		resp.Header.Del(name)
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	buf := make([]byte, 8<<10)
	defer clear(buf)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if resp.ContentLength < 0 { // nobody knows when there is more
				_ = http.NewResponseController(w).Flush() // what fails here fails again
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
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

// Write answers with the refusal.
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
