package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// hangUps notices at once when clients close their connections, be it in the middle of a call,
// by a single epoll(7) descriptor that reports EPOLLHUP alone: a client that has closed but its own
// half still waits for the answer.
type hangUps struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex // guards what follows
	last  uint64
	conns map[uint64]*conn
}

func (h *hangUps) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or a thread would wait for it
		return errors.Join(fmt.Errorf("epoll descriptor: %w", err), unix.Close(fd))
	}
	h.file = os.NewFile(uintptr(fd), "epoll")
	if h.raw, err = h.file.SyscallConn(); err != nil {
		return errors.Join(err, h.file.Close())
	}
	return nil
}

// add has c told when its client hangs up. remove must follow.
func (h *hangUps) add(c *conn) error {
	if err := h.number(c); err != nil {
		return err
	}
	var connErr, ctlErr error
	err := h.raw.Control(func(epoll uintptr) {
		connErr = c.raw.Control(func(fd uintptr) {
			// EPOLLHUP is always told of. The data is a number that goes with no other connection, as
			// the descriptor could.
			event := unix.EpollEvent{Events: unix.EPOLLET, Fd: int32(uint32(c.hangUpID)), Pad: int32(uint32(c.hangUpID >> 32))}
			ctlErr = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
	})
	return errors.Join(err, connErr, ctlErr)
}

// number has c known by a number, unless it has been closed: remove has been called then.
func (h *hangUps) number(c *conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	h.last++
	c.hangUpID = h.last
	if h.conns == nil {
		h.conns = make(map[uint64]*conn)
	}
	h.conns[c.hangUpID] = c
	return nil
}

// remove undoes add. The kernel forgets the connection when that is closed.
func (h *hangUps) remove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c.hangUpID)
}

// watch tells connections until h is closed.
func (h *hangUps) watch() {
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := h.raw.Read(func(fd uintptr) bool {
			for {
				var err error
				if n, err = unix.EpollWait(int(fd), events, 0); !errors.Is(err, unix.EINTR) {
					return n > 0
				}
			}
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			h.mu.Lock()
			c := h.conns[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
			h.mu.Unlock()
			if c != nil {
				c.hangUp()
			}
		}
	}
}

// close ends watch.
func (h *hangUps) close() { _ = h.file.Close() } // there is nothing to lose

// current is the call on a connection, for those who may end it.
type current struct {
	mu     sync.Mutex
	cancel context.CancelFunc // nil: no call
	over   bool               // further calls end at once
}

// calling notes the call that cancel ends, nil when it has ended.
func (c *conn) calling(cancel context.CancelFunc) {
	c.current.mu.Lock()
	c.current.cancel = cancel
	over := c.current.over
	c.current.mu.Unlock()
	if over && cancel != nil {
		cancel()
	}
}

// hangUp ends the call on c, and those that would follow.
func (c *conn) hangUp() {
	c.current.mu.Lock()
	c.current.over = true
	cancel := c.current.cancel
	c.current.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
