package trail

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"cmkd/daemon/audit"
)

// Reader reads the records behind one, oldest first, and goes on when more are
// written: over the ends of segments, and where older ones are pruned or set aside.
type Reader struct {
	dir  string
	last uint64 // sequence of the last record that was returned

	file   *os.File // nil: it is to be found
	number int      // of its segment
	at     int64    // of what was read of it
	buf    []byte   // read and not returned
	over   int      // bytes of the buffer that are used up
}

// NewReader returns a reader of the records behind the one with the sequence: 0 is
// all of them. [Reader.Close] is to be called.
func NewReader(dir string, after uint64) *Reader { return &Reader{dir: dir, last: after} }

// Close closes the segment.
func (r *Reader) Close() {
	if r.file != nil {
		r.file.Close() //nolint:errcheck // only read
	}
	r.file = nil
}

// Next returns the next record's line, which is good until the next call, without its
// newline: io.EOF while there is none. Lines that the writer had to take back may come
// again, with other content: their sequence is not above that of the line before.
func (r *Reader) Next() ([]byte, error) {
	for {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if sequence := audit.LineSequence(line); sequence > r.last {
			r.last = sequence
			return line, nil
		}
	}
}

// Unread forgets what was read and not returned: it is read again, as it is by then. Who
// must not see what the writer may take back ends at the last record that is durable,
// and calls it then.
func (r *Reader) Unread() {
	if r.file != nil {
		r.at -= int64(len(r.buf) - r.over)
		r.buf, r.over = r.buf[:0], 0
	}
}

// line is the next line of the trail from where the reader is.
func (r *Reader) line() ([]byte, error) {
	for {
		if r.file == nil {
			if err := r.find(); err != nil {
				return nil, err
			}
		}
		if line, ok := r.buffered(); ok {
			return line, nil
		}
		switch err := r.fill(); {
		case err == nil:
			continue
		case !errors.Is(err, io.EOF):
			return nil, err
		}
		// What a segment has is written before the next one begins.
		next, err := r.next()
		if err != nil {
			return nil, err
		}
		if err := r.fill(); err == nil {
			continue
		} else if !errors.Is(err, io.EOF) {
			return nil, err
		}
		if next == nil {
			return nil, io.EOF
		}
		if err := r.open(*next); err != nil && !errors.Is(err, fs.ErrNotExist) { // pruned: what comes after it, then
			return nil, err
		}
	}
}

// buffered takes a line from the buffer.
func (r *Reader) buffered() ([]byte, bool) {
	rest := r.buf[r.over:]
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		return nil, false
	}
	r.over += end + 1
	return rest[:end], true
}

// fill reads more of the segment: io.EOF if there is no more.
func (r *Reader) fill() error {
	if info, err := r.file.Stat(); err != nil {
		return err
	} else if info.Size() < r.at { // what could not be made durable was taken back
		r.buf, r.over, r.at, r.last = r.buf[:0], 0, 0, 0
		return r.skipTo(info.Size())
	}
	r.buf = append(r.buf[:0], r.buf[r.over:]...)
	r.over = 0
	have := len(r.buf)
	r.buf = slices.Grow(r.buf, chunk)[:have+chunk]
	n, err := r.file.ReadAt(r.buf[have:], r.at)
	r.buf = r.buf[:have+n]
	r.at += int64(n)
	if n > 0 {
		return nil
	}
	return err
}

// skipTo reads the segment again up to a place, which is behind a line's end.
func (r *Reader) skipTo(size int64) error {
	for r.at-int64(len(r.buf)-r.over) < size {
		line, ok := r.buffered()
		if ok {
			r.last = max(r.last, audit.LineSequence(line)) // 0 of what is not a record
			continue
		}
		if err := r.fill(); err != nil {
			return err
		}
	}
	return nil
}

// chunk is how much is read at a time.
const chunk = 256 << 10

// next is the segment behind the reader's, nil if there is none.
func (r *Reader) next() (*audit.Segment, error) {
	segments, err := audit.Segments(r.dir)
	if err != nil {
		return nil, err
	}
	for _, s := range segments {
		if s.Number() > r.number {
			return &s, nil
		}
	}
	return nil, nil //nolint:nilnil // it is the last
}

// find opens the segment with the first record to return, or the oldest there is.
func (r *Reader) find() error {
	segments, err := audit.Segments(r.dir)
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		return io.EOF
	}
	for _, s := range slices.Backward(segments) {
		if err := r.open(s); errors.Is(err, fs.ErrNotExist) {
			break // pruned, and all before
		} else if err != nil {
			return err
		}
		first, err := r.firstSequence()
		if err != nil {
			r.Close()
			return err
		}
		if first != 0 && first <= r.last+1 || s.Number() == segments[0].Number() {
			return nil
		}
	}
	if r.file == nil {
		return io.EOF
	}
	return nil
}

// firstSequence is that of the segment's first record, 0 if it has none.
func (r *Reader) firstSequence() (uint64, error) {
	for {
		if end := bytes.IndexByte(r.buf, '\n'); end >= 0 {
			return audit.LineSequence(r.buf[:end]), nil
		}
		if err := r.fill(); errors.Is(err, io.EOF) {
			return 0, nil
		} else if err != nil {
			return 0, err
		}
	}
}

// open opens a segment in place of the one that is open.
func (r *Reader) open(s audit.Segment) error {
	f, err := s.Open()
	if err != nil {
		return err
	}
	r.Close()
	r.file, r.number, r.at, r.over, r.buf = f, s.Number(), 0, 0, r.buf[:0]
	return nil
}
