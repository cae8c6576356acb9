package socket

import (
	"errors"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/socket/internal/forget"
)

// plainAnswer is the http.ResponseWriter of a plain request. It sends the answer whole, once the
// handler has returned.
type plainAnswer struct {
	conn   *plainConn
	end    time.Time // for writing
	header http.Header
	status int // 0: not yet known
	body   forget.Buffer
	out    forget.Buffer
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
	body := a.body.Bytes()
	if len(body) > 0 && a.header["Content-Type"] == nil {
		a.header["Content-Type"] = []string{http.DetectContentType(body)}
	}
	delete(a.header, "Content-Length") // is written below

	a.out.Reserve(headSize + len(body))
	_, _ = a.out.WriteString("HTTP/1.1 ")
	a.out.WriteInt(a.status)
	_, _ = a.out.WriteString(" ")
	_, _ = a.out.WriteString(http.StatusText(a.status))
	_, _ = a.out.WriteString("\r\n")
	_ = a.header.Write(&a.out) // fails as a.out does: never
	_, _ = a.out.WriteString("Date: ")
	now := time.Now()
	a.out.WriteTime(now)
	_, _ = a.out.WriteString("\r\nContent-Length: ")
	a.out.WriteInt(len(body))
	_, _ = a.out.WriteString("\r\n\r\n")
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
		n, err := unix.Write(int(fd), a.out.Bytes())
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
	rest := a.out.Bytes()[a.sent:]
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
	a.body.Wipe()
	a.out.Wipe()
}

// headSize is what the header of an answer takes in bytes, or more.
const headSize = 512
