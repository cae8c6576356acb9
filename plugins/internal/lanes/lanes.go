// Package lanes is the plugin's end of the stream: it runs the calls that come, in fair
// turns, and says which of them hang in the module.
package lanes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

const (
	// slowSlots is how many slow calls run at a time. Tokens generate one key
	// at a time anyway; more slots keep the other slow calls moving.
	slowSlots = 4
	// A worker gathers answers while it has more to do, but never longer
	// than this.
	gatherFrames = 8
	gatherTime   = 100 * time.Microsecond
)

// Lanes runs the calls of one stream against a backend. Quick calls run in a
// fixed number of workers, which take turns at reading the stream: the worker
// that finds nothing to do reads, with a blocking read, and runs the first
// call that it reads itself. With one worker a batch of calls costs the
// process one read, one write and no hand-over between threads. Calls that wait
// are taken in turns of their callers and kinds (fair.go).
type Lanes struct {
	backend backends.Backend
	stream  *os.File
	limits  stream.Limits
	log     *slog.Logger
	// ctx is the parent of every call; it ends after the last of them.
	ctx  context.Context
	stop context.CancelFunc

	workers []*slot
	slots   []*slot // of the workers and of the slow lane, for overdue
	running sync.WaitGroup

	mu    sync.Mutex // guards what follows
	turn  sync.Cond  // something below has changed
	queue *fairQueue // quick calls read and not begun
	slow  *fairQueue // slow ones
	free  []*slot    // of the slow lane
	// slowEnded is when a slow call that had its turn ended last, by turnOf; see hadTurn.
	slowEnded [2]time.Time
	reading   bool  // a worker is reading
	ended     bool  // the stream has ended, with err
	err       error // nil at its end

	// Of the worker that set reading, the list until it has put the calls into the queues.
	reader *stream.FrameReader
	jobs   []job

	write sync.Mutex // held for one batch on the stream
}

// job is a call that was read.
type job struct {
	row      *stream.Row
	id       uint64
	flow     stream.Flow
	body     []byte
	deadline time.Time // of the caller; zero: it has none

	// Set by the queue that it comes from.
	from *queued
	dear bool
	long bool // it takes longer than answers may wait for each other
}

// late says whether the caller has given up.
func (j job) late(now time.Time) bool {
	return !j.deadline.IsZero() && !now.Before(j.deadline)
}

func New(b backends.Backend, daemon *os.File, workers int, limits stream.Limits, log *slog.Logger) *Lanes {
	l := &Lanes{
		backend: b, stream: daemon, limits: limits, log: log,
		queue:  newFairQueue(max(1, workers/4), 0),
		slow:   newFairQueue(0, slowSlots-1),
		reader: stream.NewFrameReader(daemon),
	}
	l.turn.L = &l.mu
	l.ctx, l.stop = context.WithCancel(context.Background())
	for range workers {
		s := new(slot)
		l.workers = append(l.workers, s)
		l.slots = append(l.slots, s)
	}
	for range slowSlots {
		s := new(slot)
		l.free = append(l.free, s)
		l.slots = append(l.slots, s)
	}
	return l
}

// Run serves until the stream ends and every call that was read is answered.
func (l *Lanes) Run() error {
	defer l.stop()
	for _, s := range l.workers {
		l.running.Go(func() { l.work(s) })
	}
	l.running.Wait()
	return l.err
}

// work is one worker of the quick lane.
func (l *Lanes) work(s *slot) {
	growStack()
	var out bytes.Buffer
	var gathered int
	var since time.Time
	j, ok := l.wait()
	for ok {
		began := time.Now()
		l.answer(j, s, &out, began)
		s.running.Store(nil)
		now := time.Now()
		if gathered++; gathered == 1 {
			since = now
		}
		if gathered >= gatherFrames || now.Sub(since) >= gatherTime {
			l.flush(&out)
			gathered = 0
		}
		if j, ok = l.next(j, now, now.Sub(began)); !ok {
			l.flush(&out)
			gathered = 0
			j, ok = l.wait()
		} else if j.long && gathered > 0 { // its caller could make the next call meanwhile
			l.flush(&out)
			gathered = 0
		}
	}
}

// Next ends a call of the quick lane, which took so long, and returns the next
// one if one is there.
func (l *Lanes) next(last job, now time.Time, took time.Duration) (job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.done(last, now, took)
	return l.queue.pop()
}

// wait returns the next call; if none is there the worker reads the stream,
// unless another one does. It reports false when the stream has ended.
func (l *Lanes) wait() (job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if j, ok := l.queue.pop(); ok {
			return j, true
		}
		switch {
		case l.ended:
			// What still waits may run when another call has ended: it is for
			// the worker of that call.
			return job{}, false
		case l.reading:
			l.turn.Wait()
			continue
		}
		l.reading = true
		l.mu.Unlock()
		err := l.read()
		l.mu.Lock()
		l.reading = false
		n := len(l.jobs)
		for _, j := range l.jobs {
			if j.row.Pace == stream.Slow {
				l.pushSlow(j)
			} else {
				l.queue.push(j)
			}
		}
		clear(l.jobs)
		l.jobs = l.jobs[:0]
		if err != nil {
			l.ended = true
			if !errors.Is(err, io.EOF) {
				l.err = err
			}
			l.turn.Broadcast()
		}
		// One call is this worker's own; so one of those it wakes has nothing
		// to run and becomes the next reader.
		for range min(n, len(l.workers)-1) {
			l.turn.Signal()
		}
	}
}

// Run reads the calls that the daemon has sent, at least one frame, into jobs.
func (l *Lanes) read() error {
	for {
		f, err := l.reader.Next()
		if err != nil {
			return err
		}
		r := stream.Rows[f.Kind]
		if r == nil {
			return fmt.Errorf("call of kind %d, which has no row", f.Kind)
		}
		j := job{row: r, id: f.ID, flow: f.Flow, body: bytes.Clone(f.Body)}
		if f.Timeout != 0 {
			j.deadline = time.Now().Add(time.Duration(f.Timeout) * time.Microsecond)
		}
		l.jobs = append(l.jobs, j)
		if !l.reader.Buffered() {
			return nil
		}
	}
}

// pushSlow adds a call to the slow lane and starts it if a slot is free, with mu
// held.
func (l *Lanes) pushSlow(j job) {
	l.slow.push(j)
	for len(l.free) > 0 {
		j, ok := l.slow.pop()
		if !ok {
			return
		}
		s := l.free[len(l.free)-1]
		l.free = l.free[:len(l.free)-1]
		l.running.Go(func() { l.workSlow(j, s) })
	}
}

// workSlow runs calls of the slow lane in a slot until none may run.
func (l *Lanes) workSlow(j job, s *slot) {
	growStack()
	for ok := true; ok; {
		var out bytes.Buffer
		began := time.Now()
		inTime := l.answer(j, s, &out, began)
		now := time.Now()
		l.mu.Lock()
		if inTime || l.hadTurn(s) {
			l.slowEnded[turnOf(j.row)] = now
		}
		s.running.Store(nil) // after slowEnded: see overdue
		l.mu.Unlock()
		l.flush(&out)
		l.mu.Lock()
		l.slow.done(j, now, now.Sub(began))
		if j, ok = l.slow.pop(); !ok {
			l.free = append(l.free, s)
		}
		l.mu.Unlock()
	}
}

// answer runs the call in the slot, which stays taken, and adds its answer to the
// batch. It reports whether the backend has come to the call for certain: one that
// waits for its turn until its deadline has not.
func (l *Lanes) answer(j job, s *slot, out *bytes.Buffer, now time.Time) bool {
	if j.late(now) {
		clear(j.body)
		l.fail(j, out, stream.KindLate, stream.ErrLate)
		return false
	}
	// The time in the queue counts for the caller's deadline only: a call
	// that waits behind one that is stuck is repeated, not failed.
	caller := j
	if limit := now.Add(l.limit(j.row)); j.deadline.IsZero() || limit.Before(j.deadline) {
		j.deadline = limit
	}
	s.running.Store(&running{row: j.row, id: j.id, class: j.flow.Class, since: now})
	defer clear(j.body) // of which the answer may have parts
	answer, err := l.call(j)
	if err != nil {
		kind, late := byte(stream.KindFailed), stream.ToWire(err).Code == backends.Timeout
		if late && caller.late(time.Now()) {
			kind = stream.KindLate // the token was given less time than it may take
		}
		l.fail(j, out, kind, err)
		return !late
	}
	defer stream.Wipe(answer)
	if err := stream.EncodeFrame(out, stream.Frame{ID: j.id, Kind: stream.KindDone}, answer); err != nil {
		l.log.Error("an answer cannot be encoded", "method", j.row.Name, "error", err)
		l.fail(j, out, stream.KindFailed, backends.Errorf(backends.Internal, "the answer does not encode"))
	}
	return true
}

// call calls the backend. A panic is the end of that call alone.
func (l *Lanes) call(j job) (answer any, err error) {
	ctx := &callContext{Context: l.ctx, deadline: j.deadline}
	defer ctx.release()
	defer func() {
		if r := recover(); r != nil {
			l.log.Error("panic in the backend", "method", j.row.Name, "panic", PanicText(r), "stack", string(debug.Stack()))
			err = backends.Errorf(backends.Internal, "%s panicked in the backend", j.row.Name)
		}
	}()
	defer wipeStack()
	return j.row.Serve(ctx, l.backend, j.body)
}

// wipeStack overwrites what the calls before it have left on the stack, where hash functions
// and arithmetic keep parts of what they work on.
//
//go:noinline
func wipeStack() {
	var frame [8 << 10]byte
	wipeFrame(frame[:])
}

// growStack makes the stack of a worker larger than calls need, once. A stack that grows in
// the middle of a call is copied, and what the call had on the old one stays in memory.
//
//go:noinline
func growStack() {
	var frame [32 << 10]byte
	wipeFrame(frame[:])
}

//go:noinline
func wipeFrame(b []byte) { clear(b) }

// PanicText describes a panic without the text of its value, which may quote
// what the call was about.
func PanicText(r any) string {
	if e, ok := r.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("%T", r)
}

func (l *Lanes) fail(j job, out *bytes.Buffer, kind byte, err error) {
	if err := stream.EncodeFrame(out, stream.Frame{ID: j.id, Kind: kind}, stream.ToWire(err)); err != nil {
		l.log.Error("an error cannot be encoded", "method", j.row.Name, "error", err)
	}
}

// flush writes the batch and wipes it. A stream that cannot be written ends at
// the next read, so the failure needs no second report.
func (l *Lanes) flush(out *bytes.Buffer) {
	if out.Len() == 0 {
		return
	}
	b := out.Bytes()
	l.write.Lock()
	_, err := l.stream.Write(b)
	l.write.Unlock()
	if err != nil {
		l.log.Debug("writing answers", "error", err)
	}
	clear(b)
	out.Reset()
	if out.Cap() > stream.ReadBuffer {
		*out = bytes.Buffer{}
	}
}
