package kmsapi

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// MaxBodySize is the largest request body in bytes. The largest member is a key policy of 131,072 characters,
// which takes 768 KiB if each of them is written as \uXXXX.
const MaxBodySize = 1 << 20

// NewHandler serves the AWS JSON 1.1 protocol: it frames each HTTP request as a Request and leaves all else to d.
//
// A body that cannot be read whole gives a Request that is refused already: a larger one than MaxBodySize with 413
// RequestEntityTooLargeException, a broken one with 400 SerializationException.
func NewHandler(d Dispatcher) http.Handler { return &handler{dispatcher: d} }

type handler struct{ dispatcher Dispatcher }

// contentType is shared by all answers, which do not change it.
var contentType = []string{"application/x-amz-json-1.1"}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{values: [2]string{NewID()}}
	header := w.Header()
	header["Content-Type"] = contentType
	header["X-Amzn-Requestid"] = x.values[0:1:1]
	x.request.init(r, x.values[0])
	defer x.request.release()

	answer := h.answer(w, r, &x.request)
	x.values[1] = strconv.Itoa(len(answer.Body))
	header["Content-Length"] = x.values[1:2:2]
	w.WriteHeader(answer.Status)
	// A client that has gone cannot be told; net/http closes its connection.
	_, _ = w.Write(answer.Body)
	clear(answer.Body) // it may hold plaintext
}

// exchange is what each call needs, in one piece of memory.
type exchange struct {
	request Request
	values  [2]string // of the answer's header
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request, call *Request) *Answer {
	body, err := readBody(w, r)
	if err != nil {
		call.Refused = err
	} else {
		defer body.release()
		call.Body = body.b
	}
	answer := h.dispatcher.Dispatch(r.Context(), call)
	if !routed(r) && answer.Status == http.StatusBadRequest {
		// The call was refused like any unknown operation; AWS says 404 if even the resource is unknown.
		return &Answer{Status: http.StatusNotFound, Body: answer.Body}
	}
	return answer
}

// bodyBuffer holds the body of a request or of an answer.
type bodyBuffer struct{ b []byte }

// bodies keeps buffers between calls.
var bodies = sync.Pool{New: func() any { return new(bodyBuffer) }}

const (
	// maxKeptBody is the largest buffer, in bytes, that is kept: an Encrypt of 4 KiB with room to spare.
	maxKeptBody = 16 << 10
	// minBody is the smallest buffer, in bytes: more than most bodies.
	minBody = 1 << 10
)

// readBody reads the whole body. On success the caller releases it.
func readBody(w http.ResponseWriter, r *http.Request) (*bodyBuffer, *Error) {
	b, _ := bodies.Get().(*bodyBuffer)
	in := io.Reader(r.Body)
	if 0 < r.ContentLength && r.ContentLength <= MaxBodySize { // and no more can be read
		// One more read, of nothing, tells the end: it wants room.
		b.grow(int(r.ContentLength) + 1)
	} else {
		in = http.MaxBytesReader(w, r.Body, MaxBodySize)
	}
	err := b.readFrom(in)
	if err == nil {
		return b, nil
	}
	b.release()
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, Errorf(CodeRequestEntityTooLarge, "Request body is larger than %d bytes", tooLarge.Limit)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, Errorf(CodeSerializationException, "Request body is shorter than its Content-Length")
	}
	return nil, Errorf(CodeSerializationException, "Request body could not be read")
}

// readFrom reads to the end of r.
func (b *bodyBuffer) readFrom(r io.Reader) error {
	for {
		if len(b.b) == cap(b.b) {
			b.grow(max(minBody, 2*cap(b.b)))
		}
		n, err := r.Read(b.b[len(b.b):cap(b.b)])
		b.b = b.b[:len(b.b)+n]
		switch {
		case errors.Is(err, io.EOF): // not what a body that was cut short ends in
			return nil
		case err != nil:
			return err
		}
	}
}

// grow makes room for size bytes in all, and leaves no copy behind.
func (b *bodyBuffer) grow(size int) {
	if size <= cap(b.b) {
		return
	}
	larger := append(make([]byte, 0, size), b.b...)
	clear(b.b)
	b.b = larger
}

// release wipes the body, which may hold plaintext, and gives the buffer back.
func (b *bodyBuffer) release() {
	b.wipe()
	if cap(b.b) <= maxKeptBody {
		bodies.Put(b)
	}
}

func (b *bodyBuffer) wipe() {
	clear(b.b)
	b.b = b.b[:0]
}
