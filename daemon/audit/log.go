// Package audit writes an append-only log of API calls that shows whether
// somebody has changed it.
//
// # Format
//
// The log is a directory of segments, audit-000001.jsonl and so on, each a
// file of lines. A line is one JSON object in the fields of a CloudTrail
// event (see [Record]), without white space between its tokens, whose last
// four members chain it to the line before. Version 1:
//
//	{"eventVersion":"1.11", … ,"chainVersion":1,"sequence":N,"previousHash":"P","hash":"H"}⏎
//	└────────────────────────── hashed: SHA-256 is H ─────────────────────────┘
//
//	N  counts from 1 over all segments
//	P  hash of the line before, 64 zeros for N = 1; lower-case hexadecimal, like H
//	H  SHA-256 of the bytes of the line up to, and without, ,"hash":
//
// The chain runs on from segment to segment. Records with the eventSource
// "audit.cmkd" are the log's own: an AuditLogRepaired reports a torn end that
// was moved aside, an AuditLogResumed of a time in which nothing could be
// written, an AuditLogBegun of an operator who started the trail over, an
// AuditCheckpoint carries a signature. Its serviceEventDetails are
//
//	{"sequence":N,"hash":"H","first":F,"firstPreviousHash":"P","keyId":K,"signature":S}
//
// where S is the base64 of a signature over the SHA-256 of
//
//	cmkd audit checkpoint v2⏎N⏎H⏎F⏎P⏎T⏎
//
// N and H are of an earlier record, F is the oldest record of the trail at that
// time, P its previousHash, and T the checkpoint's eventTime. Checkpoints of
// version 1 have neither F nor P; what is signed has v1 and not the two lines.
// The chain alone shows an edit by somebody who cannot write the whole rest
// of the log again; a checkpoint shows it whoever made it, up to the record
// that the checkpoint names, and that nothing was cut off at the beginning. A
// trail that was cut off at its end is still sound: keep a [Log.Head]
// elsewhere and give it to [Verify], or to [Log.Check].
//
// # Durability
//
// [Log.Append] returns when the record is on the disk. Callers that come
// together share one write and one fdatasync. After the first failure the log
// is broken: no record is taken until [Log.Reopen] has succeeded. So it is when
// the segment has been removed or moved away: what nobody will find is not
// recorded. Files are
// not preallocated: it would save a third of the time of an fdatasync only if
// the blocks were written full of zeros beforehand, which readers of the live
// log would stumble on.
//
// A segment gets its name when its first records are on the disk: none is ever
// empty but the first of an empty trail. The oldest are removed by [Log.Prune].
package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/daemon/internal/lockfile"
)

// Config is the configuration of a [Log].
type Config struct {
	// Dir is the directory of the log. It is created with mode 0700 if its
	// parent exists.
	Dir string
	// Node names the daemon in every record; "" if there is only one.
	Node string
	// SegmentBytes is the size at which a new segment is begun: 0 is 64 MiB.
	// It is at most exceeded by records that were written together.
	SegmentBytes int64

	// Signer signs checkpoints; nil: there are none.
	Signer Signer
	// CheckpointRecords and CheckpointInterval say how often: after so many
	// records (0 is 10,000), and after so long (0 is a minute) if there is a
	// new record.
	CheckpointRecords  uint64
	CheckpointInterval time.Duration
	// SignTimeout bounds one signature: 0 is 10 seconds.
	SignTimeout time.Duration
	// GoOn: a trail that does not verify is opened all the same. What is
	// recorded goes into a new segment behind it; [Log.Problem] and [Log.Check]
	// say what is wrong, until [Log.Begin].
	GoOn bool
	// Logger is told of checkpoints that failed; nil: nobody is.
	Logger *slog.Logger

	// Backlog bounds the memory that records waiting for the disk take, and
	// those that calls in flight may still write, in bytes: 0 is 32 MiB. The last
	// quarter is for the privileged, see [Log.Reserve].
	Backlog int64
	// DiskReserve is how much of the file system only the privileged may fill,
	// in bytes: 0 is 256 MiB, and never more than a twentieth of the file system.
	DiskReserve int64
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = 64 << 20
	}
	if c.CheckpointRecords == 0 {
		c.CheckpointRecords = 10_000
	}
	if c.CheckpointInterval <= 0 {
		c.CheckpointInterval = time.Minute
	}
	if c.SignTimeout <= 0 {
		c.SignTimeout = 10 * time.Second
	}
	if c.Backlog <= 0 {
		c.Backlog = 32 << 20
	}
	if c.DiskReserve <= 0 {
		c.DiskReserve = 256 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Errors of [Log.Append].
var (
	// ErrBroken: an earlier record could not be written. See [Log.Reopen].
	ErrBroken = errors.New("the audit log is broken")
	// ErrBacklog: the disk is not keeping up; nothing was recorded.
	ErrBacklog = errors.New("the audit log has a backlog")
	// ErrDiskLow: what is left of the disk is reserved.
	ErrDiskLow = errors.New("the disk of the audit log is nearly full")
	// ErrClosed: the log has been closed.
	ErrClosed = errors.New("the audit log is closed")
)

// Log is a log open for appending. Its methods may be called concurrently.
type Log struct {
	cfg    Config
	due    chan struct{} // a checkpoint is due
	broken chan struct{} // the log has broken

	taken atomic.Int64 // of cfg.Backlog
	space space

	stop       context.CancelFunc // ends checkpoints
	owned      sync.WaitGroup     // checkpoints
	committing sync.WaitGroup     // whoever is busy
	endOnce    sync.Once
	endErr     error
	closeOnce  sync.Once
	closeErr   error

	mu       sync.Mutex // guards what follows
	tip      link       // the last record in pending, or else durable
	durable  link       // the last record on disk
	pending  *batch     // the records that the next write takes
	writing  *batch     // the records of the write under way, nil if none is
	busy     bool       // somebody writes, or is about to
	spare    []byte     // the buffer of the write before
	outage   *outage    // why nothing can be appended, nil if it can
	closing  bool       // only the log's own records are taken
	ended    bool       // nothing is taken any more
	signed   uint64     // the last record that a checkpoint covers
	signedBy uint64     // the record of that checkpoint
	begin    beginning  // of the trail
	opened   link       // the last record that was there before any of ours
	problem  error      // why the trail goes on behind a hole
	checked  bool       // Check has succeeded: checkpoints are made

	signing   sync.Mutex // held by checkpoint
	arranging sync.Mutex // held while segments are verified or removed

	io   sync.Mutex // guards what follows; taken before mu
	at   position
	lock *lockfile.Lock
}

// position is the end of the durable log.
type position struct {
	segment segment
	file    *os.File
	size    int64
	full    bool // the next write begins a segment
	// held is what the file is, and path where it should be ("" before the first write): a file
	// that is open stays what it is. there is what was there last.
	held, there unix.Stat_t
	path        string
}

// Open opens the log in cfg.Dir to append to it, or begins one. It verifies
// the last segment and its tie to the one before, and refuses with a
// [*ChainError] what does not verify. Only a torn last line, which a crash in
// the middle of a write leaves, is repaired: it is moved to a file beside the
// segment, and a record reports it.
func Open(cfg Config) (*Log, error) {
	l, err := open(cfg.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("opening the audit log %s: %w", cfg.Dir, err)
	}
	return l, nil
}

func open(cfg Config) (*Log, error) {
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	end, err := findEnd(cfg.Dir)
	if problem, ok := errors.AsType[*ChainError](err); ok && cfg.GoOn {
		end, err = goOn(cfg.Dir, problem)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Log{
		cfg: cfg, lock: lock, stop: stop, at: end.position,
		due: make(chan struct{}, 1), broken: make(chan struct{}, 1),
		tip: end.head, durable: end.head, pending: newBatch(nil), signed: end.signed, signedBy: end.signedBy,
		begin: end.begin, opened: end.head, problem: end.problem,
	}
	if cfg.Signer != nil {
		l.owned.Add(1)
		go l.checkpoints(ctx)
	}
	if end.torn.Bytes > 0 {
		if err := l.reportRepair(ctx, end.torn); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Head returns the last durable record's sequence number and hash: 0 and
// zeros of an empty log.
func (l *Log) Head() (sequence uint64, hash [sha256.Size]byte) {
	h := l.head()
	return h.sequence, h.hash
}

func (l *Log) head() link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Err returns nil while records can be appended, and why not otherwise.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal(false)
}

// Broken receives a value when the log has broken; [Log.Err] says why.
func (l *Log) Broken() <-chan struct{} { return l.broken }

func (l *Log) refusal(own bool) error {
	switch {
	case l.ended || l.closing && !own:
		return ErrClosed
	case l.outage != nil:
		return l.outage.err
	}
	return nil
}

// End takes no more records, writes those at hand and makes a last checkpoint.
// A broken log is mended first, as by [Log.Reopen], if it can be: else err says
// so, with the number of records that are lost with the process.
// If final, the files have what [Log.Head] names and nothing after it. The
// signer must still be able to sign.
func (l *Log) End() (final bool, err error) {
	l.endOnce.Do(func() {
		l.stop()
		l.owned.Wait()
		err := l.Reopen()
		l.mu.Lock()
		l.closing = true
		l.mu.Unlock()
		if l.cfg.Signer != nil && l.flush() && l.unsigned() > 0 {
			err = errors.Join(err, l.checkpoint(context.Background()))
		}
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		l.committing.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.outage != nil && len(l.outage.lines) > 0 {
			n := bytes.Count(l.outage.lines, []byte("\n"))
			err = errors.Join(fmt.Errorf("%d records of what has happened could not be written and are lost: %w", n, l.outage.err), err)
		}
		l.endErr = err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outage == nil, l.endErr
}

// Close does what [Log.End] does, and releases the log.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		if err := l.close(); err != nil {
			l.closeErr = fmt.Errorf("closing the audit log: %w", err)
		}
	})
	return l.closeErr
}

func (l *Log) close() error {
	_, err := l.End()
	l.io.Lock()
	defer l.io.Unlock()
	return errors.Join(err, l.at.file.Close(), l.lock.Release())
}

// flush waits until the records at hand are durable and reports whether they
// are.
func (l *Log) flush() bool {
	l.mu.Lock()
	b := l.writing
	if l.pending.records > 0 {
		b = l.pending
	}
	sound := l.outage == nil
	l.mu.Unlock()
	if b == nil {
		return sound
	}
	b.done.Wait()
	return b.err == nil
}

// signal tells a goroutine that there is something to do, unless it has been
// told already.
func (l *Log) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
