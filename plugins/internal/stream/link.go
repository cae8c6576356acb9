package stream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrRetired: the process takes no more calls; this one was not sent.
	ErrRetired = errors.New("the plugin process takes no more calls")
	// ErrPast: the caller's deadline passed before the plugin had an answer. It
	// says nothing about the process. The plugin's clock may see the deadline
	// before ctx ends here.
	ErrPast = errors.New("the caller's deadline passed")
	// ErrGone: the process ended while the call was in it.
	ErrGone = errors.New("the plugin process ended during the call")
	// ErrStuck: the same, because this call did not come back from the module.
	ErrStuck = errors.New("the call was stuck in the module")
)

// Link is the daemon's end of the stream of calls to one process.
//
// A caller writes its frame itself, together with those of all who came while
// the previous batch was on its way; so a lone call costs no hand-over to a
// writer, and 64 callers share a few writes. One goroutine (read) hands out
// the answers.
type Link struct {
	Conn *net.UnixConn
	// stuck is the id of the call because of which the process is ended; 0: none.
	Stuck atomic.Uint64

	mu      sync.Mutex // guards what follows
	pending map[uint64]*call
	lastID  uint64
	retired bool          // takes no more calls
	idle    chan struct{} // closed when retired and pending is empty

	writing sync.Mutex // guards what follows
	batch   []byte     // frames not written yet
	spare   []byte     // the other batch buffer
	busy    bool       // a caller is writing
}

// call is one call that waits for its answer.
type call struct {
	done chan struct{} // receives once, when kind and body are set
	most int           // bytes that the body may have
	Kind byte
	Body []byte
}

// calls recycles them with their buffers.
var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// Release wipes the call and makes it free for another one.
func (c *call) Release() {
	clear(c.Body)
	if cap(c.Body) > ReadBuffer {
		c.Body = nil
	}
	calls.Put(c)
}

// KindGone is what a call gets that the process took with it. It is never on
// the wire.
const KindGone = 255

func NewLink(conn *net.UnixConn) *Link {
	return &Link{Conn: conn, pending: make(map[uint64]*call), idle: make(chan struct{})}
}

// RoundTrip sends one call and waits for its answer, which the caller
// releases. The error is errRetired, errGone, errStuck, errPast or that of ctx.
func (l *Link) RoundTrip(ctx context.Context, r *Row, of Flow, request []byte) (*call, error) {
	f := Frame{Kind: r.ID, Flow: of, Body: request}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline).Microseconds()
		if left <= 0 {
			return nil, ErrPast
		}
		f.Timeout = uint32(min(left, math.MaxUint32))
	}
	if err := ctx.Err(); err != nil { // an answer could still come first
		return nil, err
	}
	c := calls.Get().(*call)
	c.most = r.mostAnswer()
	id, others, err := l.register(c)
	if err != nil {
		c.Release()
		return nil, err
	}
	f.ID = id
	l.send(f, c, others)

	select {
	case <-c.done:
	case <-ctx.Done():
		if l.forget(id) {
			c.Release()
			return nil, ctx.Err()
		}
		<-c.done // the answer came at the same moment
	}
	if c.Kind == KindGone {
		c.Release()
		if l.Stuck.Load() == id {
			return nil, ErrStuck
		}
		return nil, ErrGone
	}
	return c, nil
}

// register gives c an id and reports how many other calls are under way.
func (l *Link) register(c *call) (id uint64, others int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return 0, 0, ErrRetired
	}
	l.lastID++
	others = len(l.pending)
	l.pending[l.lastID] = c
	return l.lastID, others, nil
}

// forget reports whether the call was still waiting.
func (l *Link) forget(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[id]
	delete(l.pending, id)
	l.checkIdle()
	return ok
}

// checkIdle is called with mu held whenever pending has shrunk.
func (l *Link) checkIdle() {
	if l.retired && len(l.pending) == 0 {
		select {
		case <-l.idle:
		default:
			close(l.idle)
		}
	}
}

// send puts the frame of c into the batch and, if nobody else is writing,
// writes. It may block for as long as the process does not read, which the
// supervision bounds.
func (l *Link) send(f Frame, c *call, others int) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.batch = AppendFrame(l.batch, f)
	if !l.busy {
		l.busy = true
		l.write(c, others > 0)
	}
}

// write writes until the batch is empty, with writing held in between. A write
// fails when the process has ended; read notices the same and fails the calls.
func (l *Link) write(c *call, others bool) {
	for len(l.batch) > 0 {
		if c != nil && len(c.done) > 0 {
			// The caller has its answer and must not write for others any
			// longer. This goroutine ends with the batch.
			go func() {
				l.writing.Lock()
				defer l.writing.Unlock()
				l.write(nil, true)
			}()
			return
		}
		if others {
			// Callers that the same batch of answers has woken are about
			// to send: let them join.
			l.writing.Unlock()
			runtime.Gosched()
			l.writing.Lock()
		}
		b := l.batch
		l.batch = l.spare[:0]
		l.writing.Unlock()
		_, err := l.Conn.Write(b)
		clear(b)
		l.writing.Lock()
		l.spare = b
		if cap(b) > 2*ReadBuffer {
			l.spare = nil
		}
		if err != nil {
			clear(l.batch)
			l.batch = l.batch[:0]
		}
	}
	l.busy = false
}

// Run hands out the answers until the stream ends and returns why it did,
// after the calls that were still waiting got errGone.
func (l *Link) Run() error {
	r := NewFrameReader(l.Conn)
	var ready []*call
	for {
		// Blocks outside of the lock, then takes all that came at once.
		f, err := r.Next()
		l.mu.Lock()
		for err == nil {
			if f.Kind > KindLate {
				err = fmt.Errorf("answer of kind %d", f.Kind)
				break
			}
			// A call that is not there has given up waiting.
			if c, ok := l.pending[f.ID]; ok {
				if len(f.Body) > c.most {
					err = fmt.Errorf("answer of %d bytes, at most %d", len(f.Body), c.most)
					break
				}
				delete(l.pending, f.ID)
				c.Kind = f.Kind
				c.Body = append(c.Body[:0], f.Body...)
				ready = append(ready, c)
			}
			if !r.Buffered() {
				break
			}
			f, err = r.Next()
		}
		if err != nil {
			ready = l.breakOff(ready)
		}
		l.checkIdle()
		l.mu.Unlock()
		for i, c := range ready {
			c.done <- struct{}{}
			ready[i] = nil
		}
		ready = ready[:0]
		if err != nil {
			return err
		}
	}
}

// breakOff ends the stream, with mu held, and adds the calls that it fails.
func (l *Link) breakOff(ready []*call) []*call {
	l.retired = true
	for id, c := range l.pending {
		delete(l.pending, id)
		c.Kind = KindGone
		ready = append(ready, c)
	}
	return ready
}

// Retire refuses new calls; the channel is closed when none is under way.
func (l *Link) Retire() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	l.checkIdle()
	return l.idle
}

// InFlight counts the calls under way.
func (l *Link) InFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}
