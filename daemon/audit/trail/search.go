package trail

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"cmkd/daemon/audit"
)

// Stop ends a search or a follower that has what it wants.
var Stop = errors.New("stop") //nolint:errname,staticcheck // like [fs.SkipAll]

// Options say how to search.
type Options struct {
	Query Query
	// Reverse: newest first.
	Reverse bool
	// Workers is how many processors take part, 0 for all.
	Workers int
}

// blockSize is how much of a segment one worker looks at: little enough for a
// processor's cache.
const blockSize = 1 << 20

// slack is by how much the times of records may run against their order: a record
// has the time at which its call began.
const slack = time.Hour

// Search hands the records that fit to f, in the order of the trail, and returns
// f's first error, nil for [Stop]. All processors take part, or [Options.Workers]; the memory is bounded
// by some blocks for each, whatever fits. A trail that is being written to ends
// where it ended at the beginning.
//
// What is more than an hour older or newer than the query's times is not read, unless
// the clock was set back by more than an hour, as one record in each MiB tells.
func Search(ctx context.Context, dir string, o Options, f func(*Event) error) error {
	return scan(ctx, dir, o, func(m *matcher, lines []byte) []*Event { return m.block(lines) }, func(found []*Event) error {
		if o.Reverse {
			slices.Reverse(found)
		}
		for _, e := range found {
			if err := f(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// scan has workers look at blocks, and hands what they find to collect in order.
func scan[T any](ctx context.Context, dir string, o Options, work func(*matcher, []byte) T, collect func(T) error) error {
	m := newMatcher(o.Query)
	files, err := openAll(dir)
	if err != nil {
		return err
	}
	defer closeAll(files)
	blocks, err := m.blocks(files)
	if err != nil {
		return err
	}
	if o.Reverse {
		slices.Reverse(blocks)
	}
	g, ctx := errgroup.WithContext(ctx)
	type job struct {
		block
		result chan T
	}
	workers := o.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	jobs := make(chan job)
	ordered := make(chan chan T, 2*workers)
	g.Go(func() error {
		defer close(jobs)
		defer close(ordered)
		for _, b := range blocks {
			j := job{b, make(chan T, 1)}
			if err := send(ctx, ordered, j.result); err != nil {
				return err
			}
			if err := send(ctx, jobs, j); err != nil {
				return err
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			var buf []byte
			for j := range jobs {
				lines, err := j.lines(&buf)
				if err != nil {
					return err
				}
				j.result <- work(m, lines)
			}
			return nil
		})
	}
	g.Go(func() error {
		for result := range ordered {
			select {
			case found := <-result:
				if err := collect(found); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	if err := g.Wait(); err != Stop { //nolint:errorlint // as it is, and not along with another
		return err
	}
	return nil
}

func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// block returns the events of the lines that fit. They are copies.
func (m *matcher) block(lines []byte) []*Event {
	var found []*Event
	m.each(lines, func(line []byte) {
		if e := m.line(line); e != nil {
			found = append(found, e.clone())
		}
	})
	return found
}

// clone makes the event its own: the line's buffer serves again.
func (e *Event) clone() *Event {
	e.Line = bytes.Clone(e.Line)
	return e
}

// each hands on the lines that may fit.
func (m *matcher) each(lines []byte, f func(line []byte)) {
	for len(lines) > 0 {
		start := 0
		if len(m.needles) > 0 {
			at := bytes.Index(lines, m.needles[0])
			if at < 0 {
				return
			}
			start = bytes.LastIndexByte(lines[:at], '\n') + 1
		}
		end := bytes.IndexByte(lines[start:], '\n')
		if end < 0 {
			return
		}
		f(lines[start : start+end])
		lines = lines[start+end+1:]
	}
}

// file is a segment that is open.
type file struct {
	*os.File
	size int64
}

// openAll opens the segments. One that is removed later stays readable.
func openAll(dir string) (files []*file, err error) {
	segments, err := audit.Segments(dir)
	if err != nil {
		return nil, err
	}
	for _, s := range segments {
		f, err := s.Open()
		if errors.Is(err, fs.ErrNotExist) { // pruned meanwhile
			continue
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		opened := &file{File: f}
		files = append(files, opened)
		if opened.size, err = f.Seek(0, io.SeekEnd); err != nil {
			closeAll(files)
			return nil, err
		}
	}
	return files, nil
}

func closeAll(files []*file) {
	for _, f := range files {
		f.Close() //nolint:errcheck // only read
	}
}

// block is a part of a segment: the lines that begin in it.
type block struct {
	file *file
	from int64
}

// blocks are those in which something may fit.
func (m *matcher) blocks(files []*file) ([]block, error) {
	var all []block
	for _, f := range files {
		for from := int64(0); from < f.size; from += blockSize {
			all = append(all, block{f, from})
		}
	}
	if m.since == "" && m.until == "" {
		return all, nil
	}
	begins := make([]string, len(all)) // the times of their first lines
	before := ""
	for i, b := range all {
		var err error
		if begins[i], err = b.begins(); err != nil {
			return nil, err
		}
		at, err := time.Parse(audit.TimeFormat, begins[i])
		if err != nil {
			begins[i] = "" // a line fills the block
			continue
		}
		if timeText(at.Add(slack)) < before {
			return all, nil // the clock was set back
		}
		before = max(before, begins[i])
	}
	since, until := timeText(shift(m.query.Since, -slack)), timeText(shift(m.query.Until, slack))
	var kept []block
	for i, b := range all {
		tooOld := i+1 < len(all) && begins[i+1] != "" && begins[i+1] < since
		tooNew := begins[i] != "" && until != "" && begins[i] >= until
		if !tooOld && !tooNew {
			kept = append(kept, b)
		}
	}
	return kept, nil
}

// shift moves a time that is not zero.
func shift(at time.Time, by time.Duration) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(by)
}

// begins is the time of the first line that begins in the block, "" if there is none.
func (b block) begins() (string, error) {
	for n := int64(8 << 10); ; n *= 8 {
		start := max(b.from-1, 0)
		text, err := b.file.read(nil, start, min(start+n, b.file.size))
		if err != nil {
			return "", err
		}
		if b.from > 0 {
			_, text, _ = bytes.Cut(text, []byte("\n"))
		}
		line, _, whole := bytes.Cut(text, []byte("\n"))
		if at := audit.LineTime(line); at != "" || whole || n > blockSize {
			return at, nil
		}
	}
}

// lines reads the whole lines that begin in the block, into buf, which serves for
// the next call again.
func (b block) lines(buf *[]byte) ([]byte, error) {
	f, from := b.file, b.from
	start := max(from-1, 0) // a line begins behind a newline
	end := min(from+blockSize, f.size)
	text, err := f.read((*buf)[:0], start, end)
	*buf = text
	if err != nil {
		return nil, err
	}
	skip := 0
	if from > 0 {
		skip = bytes.IndexByte(text, '\n') + 1
		if skip == 0 || skip == len(text) { // no line begins here
			return nil, nil
		}
	}
	for end < f.size && len(text) > 0 && text[len(text)-1] != '\n' {
		if len(text) > blockSize+2*audit.MaxLine {
			break // no line is that long
		}
		have := len(text)
		more := min(end+64<<10, f.size)
		if text, err = f.read(text, end, more); err != nil {
			return nil, err
		}
		*buf = text
		end = more
		if at := bytes.IndexByte(text[have:], '\n'); at >= 0 {
			text = text[:have+at+1]
			break
		}
	}
	return text[skip : bytes.LastIndexByte(text, '\n')+1], nil
}

// read appends what the segment has from one place to another.
func (f *file) read(buf []byte, from, to int64) ([]byte, error) {
	have := len(buf)
	buf = slices.Grow(buf, int(to-from))[:have+int(to-from)]
	n, err := f.ReadAt(buf[have:], from)
	if errors.Is(err, io.EOF) {
		err = nil // what was not durable has been taken back
	}
	return buf[:have+n], err
}
