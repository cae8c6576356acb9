package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// backward reads the lines of a segment from its end.
type backward struct {
	segment segment
	file    *os.File
	at      int64  // buf is what the file has from here on, up to what was read
	buf     []byte // never written to: lines are slices of it
}

// backward opens the segment to read its first size bytes, all if size is
// negative. The caller closes it.
func (s segment) backward(size int64) (*backward, error) {
	f, err := s.openRead()
	if err != nil {
		return nil, err
	}
	if size < 0 {
		if size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return &backward{segment: s, file: f, at: size}, nil
}

func (b *backward) close() { b.file.Close() } //nolint:errcheck // only read

// record reads the line before and takes it apart. The error is a
// [*ChainError], io.EOF before the first line, or the file's.
func (b *backward) record() ([]byte, record, error) {
	line, err := b.line()
	if err != nil {
		return nil, record{}, err
	}
	r, err := parse(line)
	if err != nil {
		return nil, r, b.wrong(err)
	}
	return line, r, nil
}

// wrong is a problem with the line that was read last.
func (b *backward) wrong(err error) error { return &ChainError{File: b.segment.path(), Err: err} }

// chunk is how much is read at a time.
const chunk = 64 << 10

// line returns the line before, without its newline.
func (b *backward) line() ([]byte, error) {
	for {
		if n := len(b.buf); n > 0 {
			if b.buf[n-1] != '\n' {
				return nil, b.wrong(ErrTorn)
			}
			start := bytes.LastIndexByte(b.buf[:n-1], '\n') + 1
			if start > 0 || b.at == 0 {
				line := b.buf[start : n-1]
				b.buf = b.buf[:start]
				return line, nil
			}
			if n > maxLine {
				return nil, b.wrong(ErrFormat)
			}
		} else if b.at == 0 {
			return nil, io.EOF
		}
		if err := b.more(); err != nil {
			return nil, err
		}
	}
}

// more reads what is before buf.
func (b *backward) more() error {
	n := min(chunk, b.at)
	buf := make([]byte, int(n)+len(b.buf))
	if _, err := b.file.ReadAt(buf[:n], b.at-n); errors.Is(err, io.EOF) {
		return b.wrong(ErrTorn) // the file is shorter than it was
	} else if err != nil {
		return err
	}
	copy(buf[n:], b.buf)
	b.buf, b.at = buf, b.at-n
	return nil
}
