package socket

import (
	"errors"
	"io"
	"time"
)

// plainBody is the body of a plain request, of known length.
type plainBody struct {
	conn  *plainConn
	ahead []byte // came with the header
	left  int    // bytes to read, those of ahead included
	end   time.Time
	timed bool // end is the read deadline
}

// Read implements io.Reader.
func (b *plainBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), b.left)]
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	var err error
	if len(b.ahead) > 0 {
		n = copy(p, b.ahead)
		b.ahead = b.ahead[n:]
	} else {
		b.limitTime(b.end)
		n, err = b.conn.readMore(p)
	}
	b.left -= n
	switch {
	case b.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	default:
		return n, err
	}
}

// Close implements io.Closer.
func (b *plainBody) Close() error { return nil }

// skip passes over what came with the header.
func (b *plainBody) skip() {
	b.left -= len(b.ahead)
	b.ahead = nil
}

// limitTime makes end the read deadline, until the next request is expected.
func (b *plainBody) limitTime(end time.Time) {
	if !b.timed {
		_ = b.conn.SetReadDeadline(end) // fails on a closed connection, as the read will
		b.timed, b.conn.end = true, end
	}
}

// lingerTimeout is how long a client that is refused may go on sending.
const lingerTimeout = 500 * time.Millisecond

// linger reads what the client still sends of a body that nobody wants, before the connection is
// closed: closed at once, it could fail the client before that reads the answer.
func (b *plainBody) linger() {
	if b.conn.CloseWrite() != nil {
		return
	}
	b.timed, b.ahead = false, nil
	b.limitTime(time.Now().Add(lingerTimeout))
	buf := requests.Get().(*[]byte)
	defer requests.Put(buf)
	defer clear(*buf)
	for b.left > 0 {
		n, err := b.conn.UnixConn.Read(*buf)
		if b.left -= n; err != nil {
			return
		}
	}
}
