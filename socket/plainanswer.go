package socket

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// plainAnswer is the http.ResponseWriter of a plain request. It sends the answer whole, once the
// handler has returned.
type plainAnswer struct {
	conn   *plainConn
	end    time.Time // for writing
	header http.Header
	status int // 0: not yet known
	body   wiped
	out    wiped
	// sent and err are tryWrite's.
	sent int
	err  error
}

func (a *plainAnswer) begin(p *plainConn, end time.Time) {
	a.conn, a.end, a.status = p, end, 0
	if a.header == nil {
		a.header = http.Header{}
	}
	clear(a.header)
}

// Header implements http.ResponseWriter.
func (a *plainAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *plainAnswer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *plainAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// send sends the answer, and says in it whether the connection is kept. It returns whether it is.
func (a *plainAnswer) send(keep bool) bool {
	a.WriteHeader(http.StatusOK)
	if !keep {
		a.header["Connection"] = refusalClose
	}
	body := a.body.bytes()
	if len(body) > 0 && a.header["Content-Type"] == nil {
		a.header["Content-Type"] = []string{http.DetectContentType(body)}
	}
	delete(a.header, "Content-Length") // is written below

	a.out.reserve(headSize + len(body))
	a.out.add("HTTP/1.1 ")
	a.out.addInt(a.status)
	a.out.add(" ")
	a.out.add(http.StatusText(a.status))
	a.out.add("\r\n")
	_ = a.header.Write(&a.out) // fails as a.out does: never
	a.out.add("Date: ")
	now := time.Now()
	a.out.addTime(now)
	a.out.add("\r\nContent-Length: ")
	a.out.addInt(len(body))
	a.out.add("\r\n\r\n")
	_, _ = a.out.Write(body)

	c := a.conn
	c.server.accounts.release(c.conn)
	if !now.Before(a.end) {
		return false
	}
	a.sent, a.err = 0, nil
	if err := c.raw.Write(c.writable); err != nil || a.err != nil {
		return false
	}
	return a.sendRest() && keep
}

// tryWrite is what syscall.RawConn calls first, and but once.
func (a *plainAnswer) tryWrite(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), a.out.bytes())
		if errors.Is(err, unix.EINTR) {
			continue
		}
		a.sent = max(0, n)
		if !errors.Is(err, unix.EAGAIN) {
			a.err = err
		}
		return true
	}
}

// sendRest sends what the socket had no room for.
func (a *plainAnswer) sendRest() bool {
	rest := a.out.bytes()[a.sent:]
	if len(rest) == 0 {
		return true
	}
	c := a.conn
	if c.SetWriteDeadline(a.end) != nil {
		return false
	}
	if _, err := c.UnixConn.Write(rest); err != nil {
		return false
	}
	return c.SetWriteDeadline(time.Time{}) == nil
}

// forget overwrites the answer and gives its buffers back.
func (a *plainAnswer) forget() {
	a.body.wipe()
	a.out.wipe()
}

// headSize is what the header of an answer takes in bytes, or more.
const headSize = 512

// wiped is a buffer that leaves no copy of what was in it.
type wiped struct{ buf *[]byte }

// buffers keeps buffers. They come back overwritten.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, requestSize); return &b }}

// maxKept is the largest buffer, in bytes, that is kept.
const maxKept = 64 << 10

func (w *wiped) bytes() []byte {
	if w.buf == nil {
		return nil
	}
	return *w.buf
}

// reserve makes room for n bytes more.
func (w *wiped) reserve(n int) {
	if w.buf == nil {
		w.buf = buffers.Get().(*[]byte)
	}
	if b := *w.buf; cap(b)-len(b) < n { // growing by append would leave a copy behind
		*w.buf = append(make([]byte, 0, 2*cap(b)+n), b...)
		clear(b)
	}
}

// Write implements io.Writer.
func (w *wiped) Write(p []byte) (int, error) {
	w.reserve(len(p))
	*w.buf = append(*w.buf, p...)
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *wiped) WriteString(s string) (int, error) {
	w.add(s)
	return len(s), nil
}

func (w *wiped) add(s string) {
	w.reserve(len(s))
	*w.buf = append(*w.buf, s...)
}

func (w *wiped) addInt(n int) {
	w.reserve(20)
	*w.buf = strconv.AppendInt(*w.buf, int64(n), 10)
}

func (w *wiped) addTime(t time.Time) {
	w.reserve(len(http.TimeFormat))
	*w.buf = t.UTC().AppendFormat(*w.buf, http.TimeFormat)
}

func (w *wiped) wipe() {
	if w.buf == nil {
		return
	}
	clear(*w.buf)
	*w.buf = (*w.buf)[:0]
	if cap(*w.buf) <= maxKept {
		buffers.Put(w.buf)
	}
	w.buf = nil
}
