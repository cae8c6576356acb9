package ship

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/leodido/go-syslog/v4/rfc5424"
	"golang.org/x/sys/unix"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
)

// dialTimeout bounds a connection attempt, TLS included, and closeTimeout how long a
// receiver may take to read what is left when the connection ends.
const (
	dialTimeout  = 30 * time.Second
	closeTimeout = 30 * time.Second
)

// Facility and severities of the messages (RFC 5424, section 6.2.1).
const (
	facilityAudit   = 13
	severityWarning = 4 // refused
	severityNotice  = 5 // failed
	severityInfo    = 6
)

// formatter makes messages of records.
type formatter struct {
	host string
	buf  []byte
}

func newFormatter() *formatter {
	host, err := os.Hostname()
	if err != nil {
		host = "-"
	}
	return &formatter{host: host}
}

// frames are the messages of records (RFC 5424), each led by its length (RFC 5425,
// section 4.3.1): the record's line is the MSG, its eventName the MSGID. They are good
// until the next call.
func (f *formatter) frames(lines [][]byte) ([]byte, error) {
	f.buf = f.buf[:0]
	for _, line := range lines {
		text, err := f.message(line)
		if err != nil {
			return nil, fmt.Errorf("record %d as a syslog message: %w", audit.LineSequence(line), err)
		}
		f.buf = strconv.AppendInt(f.buf, int64(len(text)), 10)
		f.buf = append(f.buf, ' ')
		f.buf = append(f.buf, text...)
	}
	return f.buf, nil
}

func (f *formatter) message(line []byte) (string, error) {
	e := trail.Parse(line)
	severity := severityInfo
	switch e.Outcome() {
	case trail.Refused:
		severity = severityWarning
	case trail.Failed:
		severity = severityNotice
	}
	m := &rfc5424.SyslogMessage{}
	m.SetPriority(uint8(facilityAudit*8 + severity)).SetVersion(1).SetTimestamp(audit.LineTime(line))
	m.SetHostname(f.host).SetAppname("cmkd").SetProcID(strconv.Itoa(os.Getpid())).SetMsgID(cmp.Or(messageID(e.EventName), "-"))
	m.SetMessage(string(line))
	return m.String()
}

// messageID is a name as MSGID takes it: at most 32 printable ASCII characters.
func messageID(name string) string {
	id := make([]byte, 0, len(name))
	for _, c := range []byte(name) {
		if c > ' ' && c < 0x7f && len(id) < 32 {
			id = append(id, c)
		}
	}
	return string(id)
}

// Unix is a syslog receiver on a Unix stream socket. A record is taken when the
// receiver has read it and has lived on for two seconds.
type Unix struct {
	Path   string
	settle time.Duration // for tests; 0 is settleTime
}

// String implements [Receiver].
func (u *Unix) String() string { return "unix:" + u.Path }

// Open implements [Receiver].
func (u *Unix) Open(ctx context.Context) (Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", u.Path)
	if errors.Is(err, syscall.EPROTOTYPE) {
		return nil, fmt.Errorf("%w: a datagram socket does not report what was received: let the receiver listen on a stream socket", err)
	}
	if err != nil {
		return nil, err
	}
	return &unixConn{conn: conn.(*net.UnixConn), format: newFormatter(), after: cmp.Or(u.settle, settleTime)}, nil
}

type unixConn struct {
	conn   *net.UnixConn
	format *formatter
	settling
	after time.Duration
}

// Send implements [Conn].
func (c *unixConn) Send(ctx context.Context, lines [][]byte) error {
	text, err := c.format.frames(lines)
	if err != nil {
		return err
	}
	if err := write(ctx, c.conn, text); err != nil {
		return err
	}
	c.add(len(text), len(lines))
	return nil
}

// Taken implements [Conn].
func (c *unixConn) Taken(context.Context) (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return c.taken, err
	}
	unread, err := queued(raw, unix.TIOCOUTQ)
	if err != nil {
		return c.taken, err
	}
	return c.settle(unread, c.after, c.alive)
}

// alive reads what the receiver has to say, which is nothing while it is there.
func (c *unixConn) alive() error {
	if err := c.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return err
	}
	var said [512]byte
	switch _, err := c.conn.Read(said[:]); {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("the receiver has closed the connection")
	default:
		return err
	}
}

// Close implements [Conn].
func (c *unixConn) Close() { c.conn.Close() } //nolint:errcheck // nothing is lost: what was not taken is sent again

// write writes all of text, until ctx ends.
func write(ctx context.Context, to interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}, text []byte,
) error {
	stop := context.AfterFunc(ctx, func() { _ = to.SetWriteDeadline(time.Unix(1, 0)) }) // the write ends with an error
	defer stop()
	_, err := to.Write(text)
	return err
}

// TLS is a syslog receiver over TLS (RFC 5425). A record is taken when the receiver has
// answered the end of the connection that it came on with close_notify, which it does
// once it has read everything (section 4.4): each connection serves some seconds.
type TLS struct {
	Address string // host:port
	Config  *tls.Config
}

// String implements [Receiver].
func (t *TLS) String() string { return "tls:" + t.Address }

// A connection serves so long, or for so many records.
const (
	epochTime    = 2 * time.Second
	epochRecords = 4096
)

// Open implements [Receiver].
func (t *TLS) Open(ctx context.Context) (Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: t.Config}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	return &tlsConn{conn: conn.(*tls.Conn), format: newFormatter()}, nil
}

type tlsConn struct {
	conn   *tls.Conn
	format *formatter
	sent   int
	since  time.Time // of the first record
}

// Send implements [Conn].
func (c *tlsConn) Send(ctx context.Context, lines [][]byte) error {
	text, err := c.format.frames(lines)
	if err != nil {
		return err
	}
	if c.sent == 0 {
		c.since = time.Now()
	}
	if err := write(ctx, c.conn, text); err != nil {
		return err
	}
	c.sent += len(lines)
	return nil
}

// Taken implements [Conn].
func (c *tlsConn) Taken(ctx context.Context) (int, error) {
	if c.sent == 0 || c.sent < epochRecords && time.Since(c.since) < epochTime {
		return 0, nil
	}
	if err := c.conn.CloseWrite(); err != nil {
		return 0, err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(closeTimeout)); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	switch _, err := io.Copy(io.Discard, c.conn); {
	case err == nil: // close_notify
		return c.sent, ErrDone
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, errors.New("the receiver has closed the connection without close_notify (RFC 5425, section 4.4): what it has taken is not known")
	default:
		return 0, fmt.Errorf("waiting for the receiver to close the connection: %w", err)
	}
}

// Close implements [Conn].
func (c *tlsConn) Close() { c.conn.Close() } //nolint:errcheck // see unixConn
