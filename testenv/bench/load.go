package main

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

// load has a number of callers, each with a connection of its own, make one
// call after the other for d. All run in one thread with epoll(7) and look at
// no more of an answer than they must: what the client uses the daemon lacks.
func (s *server) load(ctx context.Context, request []byte, callers int, d time.Duration) (sample, error) {
	l := &load{request: request, buf: make([]byte, 64<<10), latencies: make([]time.Duration, 0, 1<<16)}
	defer l.close()
	if err := l.open(ctx, s.socket, callers); err != nil {
		return sample{}, err
	}
	before, err := s.usage()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	l.stop = began.Add(d)
	for _, c := range l.callers {
		if err := l.send(c); err != nil {
			return sample{}, err
		}
	}
	if err := l.run(); err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	after, err := s.usage()
	if err != nil {
		return sample{}, err
	}
	slices.Sort(l.latencies)
	n := len(l.latencies)
	return sample{
		calls: n, took: took, p50: l.latencies[n/2], p99: l.latencies[n*99/100],
		daemon: after.daemon - before.daemon, plugins: after.plugins - before.plugins, client: after.client - before.client,
	}, nil
}

// load is one run of callers.
type load struct {
	request   []byte
	epoll     int
	callers   []*caller
	waiting   int // callers with a call under way
	stop      time.Time
	buf       []byte
	latencies []time.Duration
}

// caller is one connection.
type caller struct {
	conn  *net.UnixConn // keeps fd open
	fd    int
	began time.Time
	// partial is the beginning of an answer that has not come whole.
	partial []byte
}

func (l *load) open(ctx context.Context, socket string, callers int) (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	for i := range callers {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		c := &caller{conn: conn.(*net.UnixConn)}
		l.callers = append(l.callers, c)
		raw, err := c.conn.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { c.fd = int(fd) }); err != nil {
			return err
		}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return fmt.Errorf("epoll_ctl: %w", err)
		}
	}
	return nil
}

func (l *load) close() {
	for _, c := range l.callers {
		_ = c.conn.Close() // nothing is under way
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
	}
	return nil
}

// send begins a call. The request fits into the socket's buffer.
func (l *load) send(c *caller) error {
	c.began = time.Now()
	n, err := unix.Write(c.fd, l.request)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if n != len(l.request) {
		return fmt.Errorf("write took %d of %d bytes", n, len(l.request))
	}
	l.waiting++
	return nil
}

// receive reads what has come of an answer, and begins the next call after the
// end of it.
func (l *load) receive(c *caller) error {
	n, err := unix.Read(c.fd, l.buf)
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	answer := l.buf[:n]
	if len(c.partial) > 0 {
		c.partial = append(c.partial, answer...)
		answer = c.partial
	}
	whole, err := complete(answer)
	if err != nil {
		return err
	}
	if !whole {
		if n == 0 {
			return errors.New("the daemon closed the connection")
		}
		if len(c.partial) == 0 {
			c.partial = append(c.partial, answer...)
		}
		return nil
	}
	c.partial = c.partial[:0]
	l.waiting--
	now := time.Now()
	l.latencies = append(l.latencies, now.Sub(c.began))
	if now.Before(l.stop) {
		return l.send(c)
	}
	return nil
}

// complete reports whether an answer is there whole. Any but a 200 is an error.
func complete(answer []byte) (bool, error) {
	end := bytes.Index(answer, []byte("\r\n\r\n"))
	if end < 0 {
		return false, nil
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
		return false, fmt.Errorf("answer %q", answer)
	}
	const field = "\r\nContent-Length: "
	at := bytes.Index(answer[:end], []byte(field))
	if at < 0 {
		return false, fmt.Errorf("answer without a Content-Length: %q", answer)
	}
	digits := answer[at+len(field) : end+2]
	length, err := strconv.Atoi(string(digits[:bytes.IndexByte(digits, '\r')]))
	if err != nil {
		return false, err
	}
	return len(answer) >= end+4+length, nil
}
