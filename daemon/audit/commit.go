package audit

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// batch is the records of one write.
type batch struct {
	lines   []byte
	records int
	before  []span // of the records whose deeds follow, see [Log.AppendBefore]
	last    link
	done    sync.WaitGroup // until err is set
	err     error
}

// span is a part of a batch's lines.
type span struct{ from, to int }

// happened are the lines of the records that tell of what has happened.
func (b *batch) happened() []byte {
	var lines []byte
	from := 0
	for _, s := range b.before {
		lines = append(lines, b.lines[from:s.from]...)
		from = s.to
	}
	return append(lines, b.lines[from:]...)
}

func newBatch(buf []byte) *batch {
	b := &batch{lines: buf[:0]}
	b.done.Add(1)
	return b
}

func (b *batch) finish(err error) {
	b.err = err
	b.done.Done()
}

// enqueue chains the record and adds it to the next batch. If nobody writes, the caller is to
// write, by [Log.commits].
func (l *Log) enqueue(body []byte, as entry) (b *batch, sequence uint64, write bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(as.own); err != nil {
		return nil, 0, false, err
	}
	b = l.pending
	from := len(b.lines)
	b.lines, l.tip = l.tip.seal(b.lines, body)
	if as.before {
		b.before = append(b.before, span{from, len(b.lines)})
	}
	b.last = l.tip
	b.records++
	if write = !l.busy; write {
		l.busy = true
		l.committing.Add(1)
	}
	return b, l.tip.sequence, write, nil
}

// commits writes batch after batch, until there are no records. A caller whose own batch has been
// written does not write for others any longer: a goroutine goes on.
func (l *Log) commits(own *batch) {
	for {
		l.gather()
		b := l.take()
		if b == nil {
			l.committing.Done()
			return
		}
		l.commit(b)
		if b == own {
			if l.idle() {
				l.committing.Done()
			} else {
				go l.commits(nil)
			}
			return
		}
	}
}

// idle ends the writing if there are no records.
func (l *Log) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = l.pending.records > 0
	return !l.busy
}

// gatherRounds is how often in a row gather looks without finding a new
// record: measured, 1 leaves batches at two thirds of the callers, and more
// than 4 costs as much time as it saves.
const gatherRounds = 4

// gather lets callers who are ready to run hand in their records first: those
// who waited for the batch before come together again in the next one,
// instead of splitting into two groups that wait for each other's fdatasync.
// It takes a fraction of the time of one.
func (l *Log) gather() {
	for before, idle := 0, 0; idle < gatherRounds; idle++ {
		l.mu.Lock()
		n := l.pending.records
		l.mu.Unlock()
		if n != before {
			before, idle = n, 0
		}
		runtime.Gosched()
	}
}

// take returns the pending batch and begins another, in which the buffer of the batch before serves
// again. If it is empty the writing ends.
func (l *Log) take() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending.records == 0 {
		l.busy = false
		return nil
	}
	l.writing, l.pending = l.pending, newBatch(l.spare)
	l.spare = nil
	return l.writing
}

// commit writes b and tells its callers.
func (l *Log) commit(b *batch) {
	l.io.Lock()
	err := l.at.write(b.lines, l.cfg.SegmentBytes)
	l.mu.Lock()
	if err != nil {
		err = l.failed(b, err)
	} else {
		l.durable = b.last
		if l.cfg.Signer != nil && b.last.sequence-l.signed >= l.cfg.CheckpointRecords {
			l.signal(l.due)
		}
	}
	l.writing = nil
	if cap(b.lines) <= 1<<20 {
		l.spare = b.lines[:0]
	}
	l.mu.Unlock()
	l.io.Unlock()
	b.finish(err)
}

// failed makes the log broken, because b could not be written. The records
// behind b are chained to it: they fail with it. The caller holds l.mu.
func (l *Log) failed(b *batch, err error) error {
	err = fmt.Errorf("%w: %w", ErrBroken, err)
	l.outage = &outage{err: err, since: time.Now(), lines: slices.Concat(b.happened(), l.pending.happened())}
	if l.pending.records > 0 {
		l.pending.finish(err)
		l.pending = newBatch(nil)
	}
	l.tip = l.durable
	l.signal(l.broken)
	return err
}

// write appends lines durably, to a new segment if the old one is full.
func (p *position) write(lines []byte, segmentBytes int64) error {
	if p.size > 0 && (p.full || p.size+int64(len(lines)) > segmentBytes) {
		return p.roll(lines)
	}
	// Before as well: what a file has got that was moved away comes again in the
	// next segment, and both are in the trail when it is put back.
	if err := p.inPlace(); err != nil {
		return err
	}
	if _, err := p.file.Write(lines); err != nil {
		return err
	}
	if err := datasync(p.file); err != nil {
		return err
	}
	if err := p.inPlace(); err != nil { // it was moved meanwhile
		return errors.Join(err, p.file.Truncate(p.size), datasync(p.file))
	}
	p.size += int64(len(lines))
	return nil
}

// roll begins the next segment with lines. All of the old one is on the disk:
// every write was synced.
func (p *position) roll(lines []byte) error {
	if err := p.inPlace(); err != nil {
		return err
	}
	next := segment{dir: p.segment.dir, number: p.segment.number + 1}
	f, err := next.begin(lines)
	if err != nil {
		return fmt.Errorf("beginning a segment: %w", err)
	}
	p.file.Close() //nolint:errcheck // synced
	*p = position{segment: next, file: f, size: int64(len(lines))}
	return nil
}
