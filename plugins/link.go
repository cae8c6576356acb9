package plugins

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
	// errRetired: the process takes no more calls; this one was not sent.
	errRetired = errors.New("the plugin process takes no more calls")
	// errPast: the caller's deadline passed before the plugin had an answer. It
	// says nothing about the process. The plugin's clock may see the deadline
	// before ctx ends here.
	errPast = errors.New("the caller's deadline passed")
	// errGone: the process ended while the call was in it.
	errGone = errors.New("the plugin process ended during the call")
	// errStuck: the same, because this call did not come back from the module.
	errStuck = errors.New("the call was stuck in the module")
)

// link is the daemon's end of the stream of calls to one process.
//
// A caller writes its frame itself, together with those of all who came while
// the previous batch was on its way; so a lone call costs no hand-over to a
// writer, and 64 callers share a few writes. One goroutine (read) hands out
// the answers.
type link struct {
	conn *net.UnixConn
	// stuck is the id of the call because of which the process is ended; 0: none.
	stuck atomic.Uint64

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
	kind byte
	body []byte
}

// calls recycles them with their buffers.
var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// release wipes the call and makes it free for another one.
func (c *call) release() {
	clear(c.body)
	if cap(c.body) > readBuffer {
		c.body = nil
	}
	calls.Put(c)
}

// kindGone is what a call gets that the process took with it. It is never on
// the wire.
const kindGone = 255

func newLink(conn *net.UnixConn) *link {
	return &link{conn: conn, pending: make(map[uint64]*call), idle: make(chan struct{})}
}

// roundTrip sends one call and waits for its answer, which the caller
// releases. The error is errRetired, errGone, errStuck, errPast or that of ctx.
func (l *link) roundTrip(ctx context.Context, r *row, of flow, request []byte) (*call, error) {
	f := frame{kind: r.id, flow: of, body: request}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline).Microseconds()
		if left <= 0 {
			return nil, errPast
		}
		f.timeout = uint32(min(left, math.MaxUint32))
	}
	if err := ctx.Err(); err != nil { // an answer could still come first
		return nil, err
	}
	c := calls.Get().(*call)
	c.most = r.mostAnswer()
	id, others, err := l.register(c)
	if err != nil {
		c.release()
		return nil, err
	}
	f.id = id
	l.send(f, c, others)

	select {
	case <-c.done:
	case <-ctx.Done():
		if l.forget(id) {
			c.release()
			return nil, ctx.Err()
		}
		<-c.done // the answer came at the same moment
	}
	if c.kind == kindGone {
		c.release()
		if l.stuck.Load() == id {
			return nil, errStuck
		}
		return nil, errGone
	}
	return c, nil
}

// register gives c an id and reports how many other calls are under way.
func (l *link) register(c *call) (id uint64, others int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return 0, 0, errRetired
	}
	l.lastID++
	others = len(l.pending)
	l.pending[l.lastID] = c
	return l.lastID, others, nil
}

// forget reports whether the call was still waiting.
func (l *link) forget(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[id]
	delete(l.pending, id)
	l.checkIdle()
	return ok
}

// checkIdle is called with mu held whenever pending has shrunk.
func (l *link) checkIdle() {
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
func (l *link) send(f frame, c *call, others int) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.batch = appendFrame(l.batch, f)
	if !l.busy {
		l.busy = true
		l.write(c, others > 0)
	}
}

// write writes until the batch is empty, with writing held in between. A write
// fails when the process has ended; read notices the same and fails the calls.
func (l *link) write(c *call, others bool) {
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
		_, err := l.conn.Write(b)
		clear(b)
		l.writing.Lock()
		l.spare = b
		if cap(b) > 2*readBuffer {
			l.spare = nil
		}
		if err != nil {
			clear(l.batch)
			l.batch = l.batch[:0]
		}
	}
	l.busy = false
}

// read hands out the answers until the stream ends and returns why it did,
// after the calls that were still waiting got errGone.
func (l *link) read() error {
	r := newFrameReader(l.conn)
	var ready []*call
	for {
		// Blocks outside of the lock, then takes all that came at once.
		f, err := r.next()
		l.mu.Lock()
		for err == nil {
			if f.kind > kindLate {
				err = fmt.Errorf("answer of kind %d", f.kind)
				break
			}
			// A call that is not there has given up waiting.
			if c, ok := l.pending[f.id]; ok {
				if len(f.body) > c.most {
					err = fmt.Errorf("answer of %d bytes, at most %d", len(f.body), c.most)
					break
				}
				delete(l.pending, f.id)
				c.kind = f.kind
				c.body = append(c.body[:0], f.body...)
				ready = append(ready, c)
			}
			if !r.buffered() {
				break
			}
			f, err = r.next()
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
func (l *link) breakOff(ready []*call) []*call {
	l.retired = true
	for id, c := range l.pending {
		delete(l.pending, id)
		c.kind = kindGone
		ready = append(ready, c)
	}
	return ready
}

// retire refuses new calls; the channel is closed when none is under way.
func (l *link) retire() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	l.checkIdle()
	return l.idle
}

// inFlight counts the calls under way.
func (l *link) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}
