// Package forget keeps what a server of net/http reads and writes from staying in memory.
//
// net/http keeps what passes through its buffers until others write over it:
// requests in a bufio.Reader of 4 KiB for each connection, answers in a
// bufio.Writer of 2 KiB and another of 4 KiB, all of them shared through pools.
// Requests and answers carry plaintexts, so:
//
//   - the reader's buffer is overwritten when the connection waits for the next
//     request, and when it ends for another reason (Begin and End);
//   - net/http is given an answer of zeros, which becomes the answer on its last
//     step (Writer and Write).
package forget

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// Buffers are those of net/http for one connection, whose net.Conn calls these methods. All but
// Ended and Filter are for the goroutine that serves the connection. The zero value is ready.
type Buffers struct {
	window []byte // net/http's buffer for reading
	answer outgoing
	out    writer
	ended  atomic.Bool
}

// maxWindow is the size of net/http's buffer for reading, in bytes.
const maxWindow = 4 << 10

// Begin is called before the first bytes of a request are read into p. It overwrites what
// the request before left in net/http's buffer, of which p is the part that is free: all of it,
// unless there is a request in it already. The first read of a connection gets the whole
// buffer, which stays the connection's as long as that is served.
func (b *Buffers) Begin(p []byte) {
	clear(p)
	if b.window == nil && len(p) <= maxWindow {
		b.window = p
	}
}

// End is called when the connection is not to be read for another request. What net/http
// reads all the same, to throw it away, it gets as zeros, by Filter.
func (b *Buffers) End() {
	b.ended.Store(true)
	clear(b.window)
}

// Ended reports whether End was called.
func (b *Buffers) Ended() bool { return b.ended.Load() }

// Filter is called with all that was read.
func (b *Buffers) Filter(p []byte) {
	if b.ended.Load() {
		clear(p)
	}
}

// Window is net/http's buffer for reading, nil before the first request.
func (b *Buffers) Window() []byte { return b.window }

// Writer returns the http.ResponseWriter for a request. Answers of known length are kept out of
// net/http's buffers.
func (b *Buffers) Writer(w http.ResponseWriter) http.ResponseWriter {
	b.out = writer{w, b}
	return &b.out
}

// Wipe is called when a request has been answered, or never will be.
func (b *Buffers) Wipe() { b.answer.wipe() }

// maxDiscarded is how much of a body that nobody wants is read, in bytes, so that the
// connection can go on: as much as net/http would read.
const maxDiscarded = 256 << 10

// Discard reads a body that the handler has not read. net/http would, and keep a part.
func Discard(r *http.Request) {
	if r.Header["Expect"] != nil { // reading would ask for the body
		return
	}
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	buf := (*b)[:cap(*b)]
	defer clear(buf)
	for n := 0; n < maxDiscarded; {
		m, err := r.Body.Read(buf)
		if n += m; err != nil {
			return
		}
	}
}

// Write writes p of net/http's to the connection, with the answer in the place of the zeros.
// For that the buffer that p is a part of has the answer for a moment, or at most until an
// error: net/http does not look at it before it is empty.
func (b *Buffers) Write(conn io.Writer, p []byte) (int, error) {
	a := &b.answer
	if a.buf == nil {
		return conn.Write(p)
	}
	head, body := a.split(p)
	out, ok := a.next(len(body))
	if !ok { // never: net/http checks the length
		a.wipe()
		return 0, errTooLong
	}
	if len(head) > 0 {
		copy(body, out)
		defer clear(body)
		out = p
	}
	n, err := conn.Write(out)
	switch {
	case err != nil:
		a.wipe()
	case a.sentAll(): // so far: the handler may write on
		a.empty()
	}
	return n, err
}

var errTooLong = errors.New("an answer that is longer than it is")

// writer is the http.ResponseWriter of a request.
type writer struct {
	http.ResponseWriter
	b *Buffers
}

// Unwrap is for [http.ResponseController].
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// zeros stand for an answer in net/http's buffers.
var zeros [8 << 10]byte

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if len(w.Header()["Content-Length"]) == 0 || len(w.Header()["Content-Type"]) == 0 { // net/http has to see it
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.b.answer.Write(p)
	n := 0
	for n < len(p) {
		m, err := w.ResponseWriter.Write(zeros[:min(len(zeros), len(p)-n)])
		n += m
		if err != nil {
			w.b.answer.wipe()
			return n, err
		}
	}
	return n, nil
}

// outgoing is the body of an answer on its way past net/http.
type outgoing struct {
	Buffer         // nothing in it: no answer is on its way
	sent   int     // bytes of it that have left
	head   bool    // the header has left
	tail   [3]byte // the last bytes of the header that have left
}

// empty forgets what has been sent, and not that the header has.
func (a *outgoing) empty() {
	a.Buffer.empty()
	a.sent = 0
}

func (a *outgoing) wipe() {
	a.Wipe()
	*a = outgoing{}
}

// endOfHeader is what no header of HTTP has in it (RFC 9112, section 2.1).
var endOfHeader = []byte("\r\n\r\n")

// split cuts p, which net/http writes, into the rest of the header and the zeros
// that stand for a part of the body.
func (a *outgoing) split(p []byte) (head, body []byte) {
	if a.head {
		return nil, p
	}
	// The end may lie across two writes.
	var seam [6]byte
	n := copy(seam[copy(seam[:], a.tail[:]):], p)
	if i := bytes.Index(seam[:3+n], endOfHeader); i >= 0 {
		a.head = true
		return p[:i+1], p[i+1:]
	}
	i := bytes.Index(p, endOfHeader)
	if i < 0 {
		rest := append(a.tail[:], p...)
		a.tail = [3]byte(rest[len(rest)-3:])
		return p, nil
	}
	a.head = true
	i += len(endOfHeader)
	return p[:i], p[i:]
}

// next is the next n bytes of the body. It fails if there are not as many.
func (a *outgoing) next(n int) ([]byte, bool) {
	if n > len(*a.buf)-a.sent {
		return nil, false
	}
	a.sent += n
	return (*a.buf)[a.sent-n : a.sent], true
}

// sentAll reports whether all of the body that the handler has written has left.
func (a *outgoing) sentAll() bool { return a.head && a.sent == len(*a.buf) }
