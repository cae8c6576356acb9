package operator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"cmkd/daemon/audit/trail"
	"cmkd/socket"
	"cmkd/socket/operatorapi"
)

// What those who read the trail may take of the daemon. A search has one processor and a
// few blocks of the trail in memory, and keeps segments open, even those that are pruned
// meanwhile: so it ends in time, however slow its client is.
const (
	maxReaders        = 8
	maxReadersPerUser = 3
	// takeTime is how long the client may take for what has been found.
	takeTime = 30 * time.Second
	// sendSize is how much is sent at a time.
	sendSize = 64 << 10
	// flushInterval is how long records may wait for others to be sent with.
	flushInterval = time.Second
)

// readers are those who read the trail now.
type readers struct {
	mu    sync.Mutex // guards what follows
	all   int
	byUID map[uint32]int
}

// enter lets one more read, unless there are too many.
func (r *readers) enter(uid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= maxReaders || r.byUID[uid] >= maxReadersPerUser {
		return false
	}
	if r.byUID == nil {
		r.byUID = map[uint32]int{}
	}
	r.all++
	r.byUID[uid]++
	return true
}

func (r *readers) leave(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.byUID[uid]--; r.byUID[uid] == 0 {
		delete(r.byUID, uid)
	}
}

// readTrail answers with records of the audit trail, as they are in its files. It
// verifies nothing: what is read must not depend on that it verifies.
func (s *Service) readTrail(ctx context.Context, c *Caller, in *operatorapi.TrailQuery) (content, error) {
	if in.Follow && (in.Reverse || in.Sequence != 0) || !in.Follow && in.After != 0 {
		return nil, invalid(http.StatusBadRequest, "the body is not what cmkctl audit sends: follow goes with after, not with reverse and sequence")
	}
	if !s.readers.enter(c.UID) {
		return nil, invalid(http.StatusTooManyRequests, fmt.Sprintf("too many are reading the audit trail: %d can at a time, %d of one user", maxReaders, maxReadersPerUser))
	}
	return &reading{ctx: ctx, service: s, uid: c.UID, in: in, end: sync.OnceFunc(func() { s.readers.leave(c.UID) })}, nil
}

// reading is one who reads the trail. It implements [content].
type reading struct {
	ctx     context.Context //nolint:containedctx // of the call, which ends with it
	service *Service
	uid     uint32
	in      *operatorapi.TrailQuery
	end     func()
}

func (r *reading) drop() { r.end() }

// errStopping ends a follower, whose answer is whole then.
var errStopping = errors.New("the daemon is stopping")

func (r *reading) send(w http.ResponseWriter) {
	defer r.end()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", operatorapi.TrailErrorTrailer)
	out := &sender{
		to: w, control: http.NewResponseController(w), limit: takeTime,
		own: []byte(`,"requestID":"` + w.Header().Get(requestIDHeader) + `"`),
	}
	out.buf = bufio.NewWriterSize(out, sendSize)
	err := r.read(out)
	if err == nil || err == errStopping { //nolint:errorlint // as it is
		err = out.flush()
	}
	switch {
	case err == nil:
		return
	case out.err != nil: // the client is gone, or too slow
		r.service.Log.LogAttrs(r.ctx, slog.LevelInfo, "who reads the audit trail has not taken it", slog.Uint64("uid", uint64(r.uid)), slog.Any("error", out.err))
		panic(http.ErrAbortHandler)
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler)
	case errors.Is(err, errTooLong):
	default:
		r.service.Log.LogAttrs(r.ctx, slog.LevelError, "reading the audit trail failed", slog.Any("error", err))
		err = errors.New("reading the audit trail failed: the daemon's log says why")
	}
	_ = out.flush() // the trailer says the rest
	w.Header().Set(operatorapi.TrailErrorTrailer, err.Error())
}

// errTooLong ends a search.
var errTooLong = fmt.Errorf("the search was ended after %s: ask for less, by --since and --until", operatorapi.SearchTime)

// read sends what is asked for.
func (r *reading) read(out *sender) error {
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	in, dir := r.in, r.service.AuditDir
	q := trail.Query{
		Principal: in.Principal, Operations: in.Operations, Outcome: in.Outcome, Since: in.Since, Until: in.Until,
		Text: in.Text, Region: in.Region, ID: in.ID, Sequence: in.Sequence, Checkpoints: in.Checkpoints,
	}
	for _, k := range in.Keys {
		q.Keys = append(q.Keys, trail.Key{Region: k.Region, ID: k.ID})
	}
	if !in.Follow {
		defer time.AfterFunc(operatorapi.SearchTime, func() { cancel(errTooLong) }).Stop()
		if err := out.flush(); err != nil { // the client waits for what may come late, not for an answer
			return err
		}
		return trail.Search(ctx, dir, trail.Options{Query: q, Reverse: in.Reverse, Workers: 1}, out.line)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-socket.Draining(r.ctx):
			cancel(errStopping)
		case <-done:
		}
	}()
	if err := out.flush(); err != nil { // the client knows that it is followed
		return err
	}
	return trail.Follow(ctx, dir, q, in.After, func(e *trail.Event) error {
		if err := out.line(e); err != nil {
			return err
		}
		return out.flush()
	})
}

// sender sends lines. What the client does not take in time is an error.
type sender struct {
	to      http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
	own     []byte // in the record of the call itself
	buf     *bufio.Writer
	flushed time.Time
	err     error
}

// line sends a record, or keeps it for later. That of the call itself, which is written
// before and has what is looked for in it, is not what anybody looks for.
func (s *sender) line(e *trail.Event) error {
	if e.EventName == operatorapi.ReadTrail.Name && bytes.Contains(e.Line, s.own) {
		return nil
	}
	if _, err := s.buf.Write(e.Line); err != nil {
		return err
	}
	if err := s.buf.WriteByte('\n'); err != nil || time.Since(s.flushed) < flushInterval {
		return err
	}
	return s.flush()
}

// Write implements [io.Writer], below the buffer.
func (s *sender) Write(p []byte) (int, error) {
	n := 0
	if s.err = s.control.SetWriteDeadline(time.Now().Add(s.limit)); s.err == nil {
		n, s.err = s.to.Write(p)
	}
	return n, s.err
}

// flush sends what was kept.
func (s *sender) flush() error {
	if err := s.buf.Flush(); err != nil {
		return err
	}
	s.flushed = time.Now()
	if s.err = s.control.SetWriteDeadline(s.flushed.Add(s.limit)); s.err == nil {
		s.err = s.control.Flush()
	}
	return s.err
}
