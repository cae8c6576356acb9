package forget

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Buffer is a buffer that leaves no copy of what was in it: neither when it grows nor in the pool that
// its memory comes from and goes back to. The zero value is empty. Its writes do not fail.
type Buffer struct{ buf *[]byte } // nil: empty

// buffers keeps buffers of 8 KiB, an answer of 4 KiB in base64 with its header, or more. They come
// back overwritten.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// maxKept is the largest buffer, in bytes, that is kept.
const maxKept = 64 << 10

// Bytes is what is in the buffer, until the next call.
func (w *Buffer) Bytes() []byte {
	if w.buf == nil {
		return nil
	}
	return *w.buf
}

// Reserve makes room for n bytes more.
func (w *Buffer) Reserve(n int) {
	if w.buf == nil {
		w.buf = buffers.Get().(*[]byte)
	}
	if b := *w.buf; cap(b)-len(b) < n { // growing by append would leave a copy behind
		*w.buf = append(make([]byte, 0, 2*cap(b)+n), b...)
		clear(b)
	}
}

// Write implements io.Writer.
func (w *Buffer) Write(p []byte) (int, error) {
	w.Reserve(len(p))
	*w.buf = append(*w.buf, p...)
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *Buffer) WriteString(s string) (int, error) {
	w.Reserve(len(s))
	*w.buf = append(*w.buf, s...)
	return len(s), nil
}

// WriteInt writes n in decimal.
func (w *Buffer) WriteInt(n int) {
	w.Reserve(20)
	*w.buf = strconv.AppendInt(*w.buf, int64(n), 10)
}

// WriteTime writes t in the form of HTTP (RFC 9110, section 5.6.7).
func (w *Buffer) WriteTime(t time.Time) {
	w.Reserve(len(http.TimeFormat))
	*w.buf = t.UTC().AppendFormat(*w.buf, http.TimeFormat)
}

// empty overwrites what is in the buffer, and keeps its memory.
func (w *Buffer) empty() {
	clear(*w.buf)
	*w.buf = (*w.buf)[:0]
}

// Wipe overwrites what is in the buffer and gives its memory back.
func (w *Buffer) Wipe() {
	if w.buf == nil {
		return
	}
	w.empty()
	if cap(*w.buf) <= maxKept {
		buffers.Put(w.buf)
	}
	w.buf = nil
}
