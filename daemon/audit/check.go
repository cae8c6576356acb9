package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Known is a record that is known to exist, by its sequence number and hash:
// the one that the database names. Sequence 0: none is known.
type Known struct {
	Sequence uint64
	Hash     [32]byte
	// Last: when the log was opened, nothing came after the record but what May lets through, and what the log
	// says of crashes and outages. first is the first of the others. nil lets nothing through.
	Last bool
	May  func(line []byte, first bool) bool
}

// Check verifies the log that is open, from its end back to the last
// checkpoint that covers no record after the one that is known, and how every
// older segment joins the next, down to the beginning that the checkpoints
// name. What it costs depends on the records since that checkpoint.
//
// A [*ChainError], or another error that wraps one of the problems above, says
// what is wrong. Until Check has succeeded, no checkpoint is made, and none is
// after it has failed. What comes before the beginning was pruned or set aside
// by an operator, who was interrupted: it is moved to a folder of its own.
func (l *Log) Check(known Known, signature SignatureVerifier) error {
	l.arranging.Lock()
	defer l.arranging.Unlock()
	begin, left, err := l.check(known, signature)
	if err == nil {
		err = setAsideSegments(l.cfg.Dir, left, begin.number)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checked = err == nil
	if err == nil {
		l.begin = begin.beginning
	}
	return err
}

// Verify verifies the whole of the log that is open, as [VerifyDir] does, up to
// what is durable now. It gives up when ctx ends: a long log takes minutes.
func (l *Log) Verify(ctx context.Context, signature SignatureVerifier) (Report, error) {
	l.arranging.Lock()
	defer l.arranging.Unlock()
	w, _, err := l.walker()
	if err != nil {
		return Report{}, err
	}
	v := verifier{opt: VerifyOptions{Signature: signature, Sequence: w.end.sequence, Hash: w.end.hash}}
	for i, s := range w.segments {
		size := int64(-1)
		if i == len(w.segments)-1 {
			size = w.size
		} else if err := w.segments[i+1].after(s); err != nil {
			return v.report, err
		}
		if err := context.Cause(ctx); err != nil {
			return v.report, err
		}
		if err := v.segment(s, size); err != nil {
			return v.report, err
		}
	}
	return v.report, v.finish()
}

// place is a beginning and the number of its segment.
type place struct {
	beginning
	number int
}

func (l *Log) check(known Known, signature SignatureVerifier) (begin place, left []segment, err error) {
	w, opened, err := l.walker()
	if err != nil {
		return place{}, nil, err
	}
	w.known, w.signature = known, signature
	switch {
	case known.Sequence > w.end.sequence:
		return place{}, nil, fmt.Errorf("%w: it ends with record %d, the database knows of record %d: "+
			"the end was cut off, or the folder was emptied or replaced", ErrHead, w.end.sequence, known.Sequence)
	case known.Last:
		w.opened = opened.sequence
	}
	if err := w.back(); err != nil {
		return place{}, nil, err
	}
	return w.beginning()
}

// Hold stops checkpoints until the log is checked again: what it tells may
// belong to a database that does not verify.
func (l *Log) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checked = false
}

// Problem returns why the log goes on behind a hole, nil if it does not: see
// [Config.GoOn] and [Log.Reopen].
func (l *Log) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

// walker reads a log from its end.
type walker struct {
	segments  []segment
	size      int64 // of the last segment
	end       link  // its last record
	known     Known
	opened    uint64 // the last record that was there when the log was opened, 0 if it does not matter
	follows   bool   // one that is not the log's comes after the known one
	leads     bool   // the earliest of these, so far, may be the first
	signature SignatureVerifier

	covered map[uint64]*signed // checkpoints whose record is still to come
	stop    uint64             // the record that the last checkpoint covers, 0 until it is found
	begin   beginning          // the latest that a checkpoint names
	signed  bool               // there is a checkpoint
}

// walker prepares to read what is durable now. opened is the last record that
// was there when the log was opened.
func (l *Log) walker() (w *walker, opened link, err error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	w = &walker{size: l.at.size, end: l.durable, covered: map[uint64]*signed{}}
	opened, err = l.opened, l.problem
	broken := l.outage != nil
	l.mu.Unlock()
	if err != nil {
		return nil, opened, err
	}
	live := l.at.segment.path()
	if err := l.at.inPlace(); err != nil {
		return nil, opened, &ChainError{File: live, Err: fmt.Errorf("%w: %w", ErrChain, err)}
	}
	info, err := l.at.file.Stat()
	switch {
	case err != nil:
		return nil, opened, err
	case info.Size() > l.at.size && !broken: // what an outage leaves, Reopen cuts off
		return nil, opened, &ChainError{File: live, Err: fmt.Errorf("%w: %d bytes after the last record", ErrAdded, info.Size()-l.at.size)}
	}
	if w.segments, err = namedSegments(l.cfg.Dir); err != nil {
		return nil, opened, err
	}
	if n := len(w.segments); n == 0 || w.segments[n-1].number != l.at.segment.number {
		return nil, opened, &ChainError{File: w.segments[max(n-1, 0)].path(), Err: fmt.Errorf("%w: the segment is not one of the daemon's", ErrAdded)}
	}
	return w, opened, nil
}

// back verifies from the end to the record that the checkpoint covers.
func (w *walker) back() error {
	if w.end.sequence == 0 {
		return nil
	}
	next := record{link: link{sequence: w.end.sequence + 1}, previous: w.end.hash}
	for i := len(w.segments) - 1; i >= 0; i-- {
		size := int64(-1)
		if i == len(w.segments)-1 {
			size = w.size
		} else if err := w.segments[i+1].after(w.segments[i]); err != nil {
			return err
		}
		done, err := w.segment(w.segments[i], size, &next)
		if done || err != nil {
			return err
		}
	}
	if w.known.Sequence != 0 && next.sequence > w.known.Sequence {
		return fmt.Errorf("%w: record %d, which the database knows of, is before the first, record %d", ErrBeginning, w.known.Sequence, next.sequence)
	}
	return nil
}

// segment verifies a segment, whose last record comes before next. It reports
// whether that is enough.
func (w *walker) segment(s segment, size int64, next *record) (done bool, err error) {
	lines, err := s.backward(size)
	if err != nil {
		return false, err
	}
	defer lines.close()
	for n := 0; ; n++ {
		line, r, err := lines.record()
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return false, s.emptyError()
		case errors.Is(err, io.EOF):
			return false, nil
		case err == nil:
			if err = r.follow(*next); err == nil {
				err = w.record(line, r)
			}
			if err != nil {
				err = lines.wrong(err)
			}
		}
		if e, ok := errors.AsType[*ChainError](err); ok {
			e.Sequence = next.sequence - 1
		}
		if err != nil {
			return false, err
		}
		*next = r
		if w.stop == r.sequence {
			return true, nil
		}
	}
}

// record checks a record against what is known of it.
func (w *walker) record(line []byte, r record) error {
	if r.sequence == w.known.Sequence && r.hash != w.known.Hash {
		return fmt.Errorf("%w: it is not the record that the database knows of", ErrChain)
	}
	if c, ok := w.covered[r.sequence]; ok && c.of != r.link {
		return fmt.Errorf("%w: a checkpoint has another hash for the record", ErrCheckpoint)
	}
	name, c, err := ownEvent(line)
	if r.sequence > w.known.Sequence && r.sequence <= w.opened && !w.lets(line, r.sequence, name) {
		return fmt.Errorf("%w: records %d to %d follow the record that was the last when the daemon stopped", ErrAdded, w.known.Sequence+1, w.opened)
	}
	if c == nil || err != nil {
		return err
	}
	if c.of.sequence == 0 || c.of.sequence >= r.sequence {
		return fmt.Errorf("%w: it covers record %d", ErrCheckpoint, c.of.sequence)
	}
	if other, ok := w.covered[c.of.sequence]; ok && other.of != c.of {
		return fmt.Errorf("%w: another one has another hash for record %d", ErrCheckpoint, c.of.sequence)
	}
	if err := c.verify(w.signature); err != nil {
		return err
	}
	w.signed = true
	w.covered[c.of.sequence] = c
	if c.begin.first > w.begin.first {
		w.begin = c.begin
	}
	if w.stop == 0 && (w.known.Sequence == 0 || c.of.sequence <= w.known.Sequence) {
		w.stop = c.of.sequence
	}
	return nil
}

// lets reports whether a record may come after the last one. own is its name if it is the log's.
func (w *walker) lets(line []byte, sequence uint64, own string) bool {
	switch {
	case own == repairEvent || own == resumeEvent:
	case own != "" || w.known.May == nil:
		return false
	default:
		w.follows, w.leads = true, w.known.May(line, true)
		if !w.leads && !w.known.May(line, false) {
			return false
		}
	}
	return sequence != w.known.Sequence+1 || !w.follows || w.leads
}

// beginning checks how the segments join, down to the one that the trail
// begins with. left are those before.
func (w *walker) beginning() (begin place, left []segment, err error) {
	want := w.begin
	if want.first == 0 {
		want = firstBeginning
	}
	i := len(w.segments) - 1
	for ; ; i-- {
		got, err := w.segments[i].beginning()
		if err != nil {
			return place{}, nil, err
		}
		begin = place{got, w.segments[i].number}
		if got.first <= want.first || i == 0 {
			break
		}
		if err := w.segments[i].joins(w.segments[i-1], got); err != nil {
			return place{}, nil, err
		}
	}
	// A trail of a version whose checkpoints do not name the beginning may have
	// lost its oldest segments to an operator.
	if w.begin.first == 0 && w.signed {
		want = begin.beginning
	}
	if err := want.check(begin.beginning); err != nil {
		return place{}, nil, err
	}
	return begin, w.segments[:i], nil
}

// joins checks that the segment, which begins so, follows the one before.
func (s segment) joins(before segment, begin beginning) error {
	if err := s.after(before); err != nil {
		return err
	}
	last, err := before.lastRecord()
	if err != nil {
		return err
	}
	if got := last.beginning(); got != begin {
		return &ChainError{
			File: s.path(), Line: 1, Sequence: got.first,
			Err: fmt.Errorf("%w: the segment begins with record %d, the one before ends with record %d, or their hashes differ", ErrChain, begin.first, last.sequence),
		}
	}
	return nil
}

// setAsideSegments moves segments to a folder of their own, named after the
// segment that the trail begins with.
func setAsideSegments(dir string, segments []segment, begin int) error {
	if len(segments) == 0 {
		return nil
	}
	to := asideDir(dir, begin)
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, s := range segments {
		target := filepath.Join(to, filepath.Base(s.path()))
		if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("setting %s aside: %s exists already: %w", s.path(), target, errors.Join(err, os.ErrExist))
		}
		if err := os.Rename(s.path(), target); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(to), syncDir(dir))
}

func asideDir(dir string, begin int) string {
	return filepath.Join(dir, fmt.Sprintf("aside-%06d", begin))
}

// Checkpoint makes a checkpoint now.
func (l *Log) Checkpoint(ctx context.Context) error {
	if l.cfg.Signer == nil {
		return nil
	}
	return l.checkpoint(ctx)
}
