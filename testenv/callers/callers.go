// Package callers has a number of callers, each with a connection of its own, make
// one call after the other. All run in one thread with epoll(7) and look at no
// more of an answer than they must: what the client uses the daemon lacks.
package callers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Options say who calls what.
type Options struct {
	Socket  string
	Request []byte // must fit into the socket's buffer
	Callers int
	// Any answer counts, and a caller whose connection is closed makes another.
	// Without it any but a 200 is an error.
	Any bool
	// Begin is called when all are connected, and Answered when each has been
	// answered once; nil: nothing is.
	Begin, Answered func() error
}

// Result is what came of it.
type Result struct {
	Calls    int           `json:"calls"`
	OK       int           `json:"ok"`     // answered 200
	Closed   int           `json:"closed"` // connections closed by the daemon
	Took     time.Duration `json:"took"`
	P50, P99 time.Duration
}

// Run makes calls for d, or until ctx ends, and waits for the last answers.
func Run(ctx context.Context, o Options, d time.Duration) (Result, error) {
	l := &load{Options: o, ctx: ctx, buf: make([]byte, 64<<10), latencies: make([]time.Duration, 0, 1<<16)}
	defer l.close()
	if err := l.open(ctx); err != nil {
		return Result{}, err
	}
	if o.Begin != nil {
		if err := o.Begin(); err != nil {
			return Result{}, err
		}
	}
	began := time.Now()
	l.stop = began.Add(d)
	for _, c := range l.callers {
		if err := l.send(c); err != nil {
			return Result{}, err
		}
	}
	if err := l.run(); err != nil {
		return Result{}, err
	}
	r := Result{Calls: len(l.latencies), OK: l.ok, Closed: l.closed, Took: time.Since(began)}
	slices.Sort(l.latencies)
	if n := len(l.latencies); n > 0 {
		r.P50, r.P99 = l.latencies[n/2], l.latencies[n*99/100]
	}
	return r, nil
}

// load is one run of callers.
type load struct {
	Options
	ctx       context.Context //nolint:containedctx // of the run
	epoll     int
	callers   []*caller
	waiting   int // callers with a call under way
	first     int // callers that have been answered
	ok        int
	closed    int
	stop      time.Time
	buf       []byte
	latencies []time.Duration
}

// caller is one connection.
type caller struct {
	index    int
	conn     *net.UnixConn // keeps fd open
	fd       int
	began    time.Time
	answered bool
	// partial is the beginning of an answer that has not come whole.
	partial []byte
}

func (l *load) open(ctx context.Context) (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	for i := range l.Callers {
		c := &caller{index: i}
		l.callers = append(l.callers, c)
		if err := l.connect(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// connect gives a caller a connection.
func (l *load) connect(ctx context.Context, c *caller) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", l.Socket)
	if err != nil {
		return err
	}
	c.conn = conn.(*net.UnixConn)
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { c.fd = int(fd) }); err != nil {
		return err
	}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.index)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (l *load) close() {
	for _, c := range l.callers {
		if c.conn != nil {
			_ = c.conn.Close() // nothing is under way
		}
	}
	_ = unix.Close(l.epoll) // it was only read
}

// run serves the callers until the last of their calls is answered.
func (l *load) run() error {
	events := make([]unix.EpollEvent, len(l.callers))
	for l.waiting > 0 {
		n, err := unix.EpollWait(l.epoll, events, 30_000)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("epoll_wait: %w", err)
		case n == 0:
			return errors.New("no answer for 30 s")
		}
		for _, e := range events[:n] {
			if err := l.receive(l.callers[e.Fd]); err != nil {
				return err
			}
		}
		if ended := l.ctx.Err() != nil; ended && l.Any {
			break // the daemon need not come to an end with it
		}
	}
	return nil
}

// send begins a call.
func (l *load) send(c *caller) error {
	c.began = time.Now()
	n, err := unix.Write(c.fd, l.Request)
	if l.Any && errors.Is(err, unix.EPIPE) {
		return l.again(c)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if n != len(l.Request) {
		return fmt.Errorf("write took %d of %d bytes", n, len(l.Request))
	}
	l.waiting++
	return nil
}

// again makes a call on a new connection.
func (l *load) again(c *caller) error {
	l.closed++
	_ = c.conn.Close() // it is closed at the other end
	c.partial = c.partial[:0]
	select {
	case <-l.ctx.Done():
		return nil
	default:
	}
	if err := l.connect(context.WithoutCancel(l.ctx), c); err != nil {
		return err
	}
	return l.send(c)
}

// receive reads what has come of an answer, and begins the next call after the
// end of it.
func (l *load) receive(c *caller) error {
	n, err := unix.Read(c.fd, l.buf)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if l.Any && (errors.Is(err, unix.ECONNRESET) || err == nil && n == 0) {
		l.waiting--
		return l.again(c)
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	answer := l.buf[:n]
	if len(c.partial) > 0 {
		c.partial = append(c.partial, answer...)
		answer = c.partial
	}
	status, err := complete(answer)
	if err != nil {
		return err
	}
	if status != 200 && status != 0 && !l.Any {
		return fmt.Errorf("answer %q", answer)
	}
	if status == 0 {
		if n == 0 {
			return errors.New("the daemon closed the connection")
		}
		if len(c.partial) == 0 {
			c.partial = append(c.partial, answer...)
		}
		return nil
	}
	c.partial = c.partial[:0]
	return l.answered(c, status)
}

// answered counts an answer and begins the caller's next call.
func (l *load) answered(c *caller, status int) error {
	l.waiting--
	if status == 200 {
		l.ok++
	}
	now := time.Now()
	l.latencies = append(l.latencies, now.Sub(c.began))
	if !c.answered {
		c.answered = true
		l.first++
		if l.first == l.Callers && l.Answered != nil {
			if err := l.Answered(); err != nil {
				return err
			}
		}
	}
	if now.Before(l.stop) && l.ctx.Err() == nil {
		return l.send(c)
	}
	return nil
}

// complete returns the status of an answer that is there whole, else 0.
func complete(answer []byte) (status int, err error) {
	end := bytes.Index(answer, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, nil
	}
	const begin = "HTTP/1.1 "
	if !bytes.HasPrefix(answer, []byte(begin)) || len(answer) < len(begin)+3 {
		return 0, fmt.Errorf("answer %q", answer)
	}
	if status, err = strconv.Atoi(string(answer[len(begin) : len(begin)+3])); err != nil {
		return 0, fmt.Errorf("answer %q", answer)
	}
	const field = "\r\nContent-Length: "
	at := bytes.Index(answer[:end], []byte(field))
	if at < 0 {
		return 0, fmt.Errorf("answer without a Content-Length: %q", answer)
	}
	digits := answer[at+len(field) : end+2]
	length, err := strconv.Atoi(string(digits[:bytes.IndexByte(digits, '\r')]))
	if err != nil {
		return 0, err
	}
	if len(answer) < end+4+length {
		return 0, nil
	}
	return status, nil
}
