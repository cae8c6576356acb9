// Package ship copies the audit trail to a receiver elsewhere: a syslog server or a
// program. It reads the segments, so that nobody who appends a record waits for it, and
// keeps on disk how far the receiver has taken them.
//
// Every record is sent at least once. The position is never ahead of what the receiver
// has taken; after a restart of either side, what is behind it is sent again. Records
// have a sequence number and an eventID, by which the receiver knows those that it has.
// What "taken" means, says each [Receiver].
package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/audit/trail"
)

// Receiver is where records go. Its methods are called from one goroutine.
type Receiver interface {
	// Open connects, or starts the program.
	Open(ctx context.Context) (Conn, error)
	// String names it, for status and log, without secrets: another one begins again.
	String() string
}

// Conn is one connection, or one run of the program.
type Conn interface {
	// Send hands over the lines of records, in order. It may wait as long as the
	// receiver does not read, until ctx ends.
	Send(ctx context.Context, lines [][]byte) error
	// Taken returns how many of the records that were sent on this connection the
	// receiver has taken for certain. If the connection is lost, err says why; it is
	// to be closed then. ErrDone asks for another connection.
	Taken(ctx context.Context) (records int, err error)
	// Close ends the connection.
	Close()
}

// ErrDone is of a connection that has served: all that was sent on it is taken.
var ErrDone = errors.New("the connection has served")

// Source is the trail. [audit.Log] implements it.
type Source interface {
	// Head is the last record that is durable.
	Head() (sequence uint64, hash [32]byte)
}

// Config says what to ship.
type Config struct {
	Dir      string // of the trail
	Position string // the file that keeps it
	Source   Source
	Receiver Receiver
	Logger   *slog.Logger
}

// Status is how far it is.
type Status struct {
	To       string    // the receiver
	Position uint64    // sequence of the last record that the receiver has taken
	Records  uint64    // that it has not taken yet
	Oldest   time.Time // eventTime of the first of them, zero if there is none
	Error    string    // why nothing is taken, "" if nothing is wrong
	Since    time.Time // of the error
	Lost     uint64    // records that were pruned, or set aside, before they were sent
}

// Lag is how old the first record is that was not taken yet.
func (s *Status) Lag(now time.Time) time.Duration {
	if s.Oldest.IsZero() {
		return 0
	}
	return max(now.Sub(s.Oldest), 0)
}

// Shipper ships until it is stopped.
type Shipper struct {
	cfg  Config
	stop context.CancelFunc
	done chan struct{}
	// gap is the sequence of the record after the last gap that was counted: a batch is read
	// again after each failure.
	gap uint64

	mu     sync.Mutex // guards status
	status Status
}

const (
	// batchRecords and batchBytes bound what is sent at once, and with windowRecords what
	// is kept in memory.
	batchRecords = 256
	batchBytes   = 256 << 10
	// windowRecords are sent at most without being taken.
	windowRecords = 8192
	// interval is how often the trail and the connection are looked at.
	interval = 200 * time.Millisecond
	// saveInterval is how often the position is written to the disk at most.
	saveInterval = time.Second
	// Attempts are made after minBackoff, twice as long each time, up to maxBackoff.
	minBackoff, maxBackoff = 200 * time.Millisecond, 30 * time.Second
)

// Start reads the position and begins.
func Start(cfg Config) (*Shipper, error) {
	p, err := readPosition(cfg.Position)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Shipper{cfg: cfg, stop: stop, done: make(chan struct{})}
	s.status.To = cfg.Receiver.String()
	held, err := p.holds(cfg.Dir)
	if err != nil {
		stop()
		return nil, fmt.Errorf("looking for record %d, up to which the audit trail was shipped: %w", p.Sequence, err)
	}
	if head, _ := cfg.Source.Head(); p.To != s.status.To || p.Sequence > head || !held {
		if p.Sequence > 0 {
			cfg.Logger.Warn("shipping the audit trail from its beginning: the saved position belongs to another receiver or trail",
				"receiver", s.status.To, "position", p.Sequence, "of", p.To)
		}
		p = position{To: s.status.To}
	}
	s.status.Position = p.Sequence
	go func() {
		defer close(s.done)
		s.run(ctx, p)
	}()
	return s, nil
}

// Stop ends it. What the receiver has taken is on the disk then.
func (s *Shipper) Stop() {
	s.stop()
	<-s.done
}

// Status says how far it is.
func (s *Shipper) Status() Status {
	head, _ := s.cfg.Source.Head()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if st.Records = 0; head > st.Position {
		st.Records = head - st.Position
	} else { // nothing waits, whatever became of the connection
		st.Oldest, st.Error, st.Since = time.Time{}, "", time.Time{}
	}
	return st
}

// run connects again and again.
func (s *Shipper) run(ctx context.Context, p position) {
	backoff := minBackoff
	k := keeper{s: s, saved: p, at: p}
	defer k.save()
	for ctx.Err() == nil {
		before := k.at.Sequence
		err := s.session(ctx, &k)
		if ctx.Err() != nil {
			return
		}
		if k.at.Sequence > before || err == nil {
			backoff = minBackoff
		}
		if err == nil {
			continue
		}
		s.failed(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// failed notes an error, and logs it once.
func (s *Shipper) failed(ctx context.Context, err error) {
	s.mu.Lock()
	fresh := s.status.Error == ""
	if fresh {
		s.status.Since = time.Now()
	}
	s.status.Error = err.Error()
	s.mu.Unlock()
	if fresh {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "the audit trail cannot be shipped, will retry",
			slog.String("receiver", s.status.To), slog.Any("error", err))
	}
}

// sent is a record that the receiver has not taken yet.
type sent struct {
	position
	at time.Time // eventTime
}

// session ships on one connection, which is opened when there is a record. An error is
// why it ended; nil asks for the next.
func (s *Shipper) session(ctx context.Context, k *keeper) error {
	r := trail.NewReader(s.cfg.Dir, k.at.Sequence)
	defer r.Close()
	var conn Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	var open []sent // sent, and not taken
	var total int   // taken on this connection
	b := batch{last: k.at.Sequence}
	for {
		if err := b.read(r, s.cfg.Source); err != nil {
			return err
		}
		if b.lost > 0 {
			s.lost(ctx, &b)
		}
		if len(b.lines) > 0 && len(open) < windowRecords {
			if len(open) == 0 {
				s.oldest(b.sent[0].at)
			}
			if conn == nil {
				var err error
				if conn, err = s.cfg.Receiver.Open(ctx); err != nil {
					return err
				}
			}
			if err := conn.Send(ctx, b.lines); err != nil {
				// What was taken before stays taken.
				n, _ := conn.Taken(ctx)
				k.advance(open, n-total)
				return err
			}
			open = append(open, b.sent...)
			b.clear()
		}
		if conn != nil {
			n, err := conn.Taken(ctx)
			open = k.advance(open, n-total)
			total = n
			switch {
			case errors.Is(err, ErrDone):
				return nil
			case err != nil:
				return err
			}
		}
		k.saveSometimes()
		if len(b.lines) == 0 || len(open) >= windowRecords {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(interval):
			}
		}
	}
}

// oldest notes the time of the first record that was not taken.
func (s *Shipper) oldest(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Oldest = at
}

// lost notes records that are not there any more.
func (s *Shipper) lost(ctx context.Context, b *batch) {
	lost := b.lost
	b.lost = 0
	if b.gap <= s.gap {
		return
	}
	s.gap = b.gap
	s.mu.Lock()
	s.status.Lost += lost
	s.mu.Unlock()
	s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "records of the audit trail were pruned or set aside before they were shipped",
		slog.Uint64("records", lost), slog.Uint64("before", b.gap))
}

// batch is what is sent at once.
type batch struct {
	lines [][]byte
	sent  []sent
	last  uint64 // sequence of the last one read
	lost  uint64 // records that are missing before it
	gap   uint64 // sequence of the record after the last of them
}

func (b *batch) clear() { b.lines, b.sent = nil, nil }

// read adds durable records to an empty batch, as many as there are.
func (b *batch) read(r *trail.Reader, source Source) error {
	head, _ := source.Head()
	size := 0
	if len(b.lines) > 0 {
		return nil
	}
	// What is read ahead may not be durable, and be replaced.
	defer r.Unread()
	for len(b.lines) < batchRecords && size < batchBytes && b.last < head {
		read, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the audit trail: %w", err)
		}
		line := append([]byte(nil), read...)
		sequence := audit.LineSequence(line)
		if sequence <= b.last {
			continue // read again after what was not durable was taken back
		}
		hash, _ := audit.LineHash(line)
		at, _ := time.Parse(audit.TimeFormat, audit.LineTime(line))
		if sequence > b.last+1 {
			b.lost += sequence - b.last - 1
			b.gap = sequence
		}
		b.lines = append(b.lines, line)
		b.sent = append(b.sent, sent{position{Sequence: sequence, Hash: hexText(hash)}, at})
		b.last = sequence
		size += len(line)
	}
	return nil
}
