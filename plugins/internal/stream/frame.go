package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"cmkd/backends"
)

// A frame carries one call or its answer. Integers are big-endian.
//
//	 0        4                12     13        17       21      22
//	+--------+----------------+------+---------+--------+-------+------+
//	| length | id             | kind | timeout | caller | class | body |
//	+--------+----------------+------+---------+--------+-------+------+
//
//	length   bytes after the length field
//	id       chosen by the daemon, the same in the answer
//	kind     of a call: the number of its row in methods.go;
//	         of an answer: 0 done, 1 failed, 2 late (the caller's deadline passed
//	         before there was one)
//	timeout  of a call: microseconds that its caller still waits; of an answer: 0
//	caller   of a call: the uid it is made for, 2^32-1 for the daemon's own; of
//	         an answer: 0
//	class    of a call: the number of the key spec that does the work (flow.go),
//	         0 without one; of an answer: 0
//	body     CBOR of the request, of the answer or of wireError
//
// Both sides write as many frames at once as they have: at 64 callers about
// ten calls share one system call and one wake-up.
const (
	FrameHeader = 4 + 8 + 1 + 4 + 4 + 1
	// MaxFrame bounds length: 100,000 keys in a ListKeysAnswer have room.
	MaxFrame = 16 << 20

	KindDone   = 0
	KindFailed = 1
	KindLate   = 2
)

// Frame is a frame without its length.
type Frame struct {
	ID      uint64
	Kind    byte
	Timeout uint32
	Flow    Flow
	Body    []byte
}

// AppendFrame adds f to a batch. A batch that has to move leaves no copy behind.
func AppendFrame(b []byte, f Frame) []byte {
	if need := FrameHeader + len(f.Body); cap(b)-len(b) < need {
		larger := append(make([]byte, 0, 2*cap(b)+need), b...)
		clear(b)
		b = larger
	}
	b = binary.BigEndian.AppendUint32(b, uint32(FrameHeader-4+len(f.Body)))
	b = binary.BigEndian.AppendUint64(b, f.ID)
	b = append(b, f.Kind)
	b = binary.BigEndian.AppendUint32(b, f.Timeout)
	b = binary.BigEndian.AppendUint32(b, f.Flow.Caller)
	b = append(b, f.Flow.Class)
	return append(b, f.Body...)
}

// EncodeFrame adds a frame with the CBOR of v as its body to a batch. If it
// fails the batch is as it was.
func EncodeFrame(b *bytes.Buffer, f Frame, v any) error {
	start := b.Len()
	f.Body = nil
	ReserveFor(b, v)
	b.Write(AppendFrame(b.AvailableBuffer(), f))
	err := Encode(b, v)
	length := b.Len() - start - 4
	if err == nil && length > MaxFrame {
		err = fmt.Errorf("frame of %d bytes, at most %d", length, MaxFrame)
	}
	if err != nil {
		b.Truncate(start)
		return err
	}
	binary.BigEndian.PutUint32(b.Bytes()[start:], uint32(length))
	return nil
}

// ReadBuffer is what a frameReader reads at once.
const ReadBuffer = 64 << 10

// FrameReader cuts a stream into frames. What it has handed out it wipes
// before it reads again: frames carry plaintext.
type FrameReader struct {
	r   io.Reader
	buf []byte
	// buf[start:end] is read and not yet handed out.
	start, end int
}

func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: r, buf: make([]byte, ReadBuffer)}
}

// Next returns the next frame and reads only if no whole one is there. Its
// body is valid until the next call that reads. An end of the stream between
// two frames is [io.EOF].
func (r *FrameReader) Next() (Frame, error) {
	for {
		n, err := r.whole()
		if err != nil {
			return Frame{}, err
		}
		if n > 0 {
			b := r.buf[r.start : r.start+n]
			r.start += n
			return Frame{
				ID:      binary.BigEndian.Uint64(b[4:]),
				Kind:    b[12],
				Timeout: binary.BigEndian.Uint32(b[13:]),
				Flow:    Flow{binary.BigEndian.Uint32(b[17:]), b[21]},
				Body:    b[FrameHeader:],
			}, nil
		}
		if err := r.fill(); err != nil {
			return Frame{}, err
		}
	}
}

// Buffered says whether next would return without reading.
func (r *FrameReader) Buffered() bool {
	n, err := r.whole()
	return n > 0 || err != nil
}

// whole returns the size of the frame at start, 0 if part of it is missing.
func (r *FrameReader) whole() (int, error) {
	b := r.buf[r.start:r.end]
	if len(b) < 4 {
		return 0, nil
	}
	length := binary.BigEndian.Uint32(b)
	if length < FrameHeader-4 || length > MaxFrame {
		return 0, fmt.Errorf("frame of %d bytes", length)
	}
	if size := int(length) + 4; size <= len(b) {
		return size, nil
	}
	return 0, nil
}

// fill reads once, after making room for at least the rest of the frame at
// start.
func (r *FrameReader) fill() error {
	need := ReadBuffer
	if b := r.buf[r.start:r.end]; len(b) >= 4 {
		need = max(need, int(binary.BigEndian.Uint32(b))+4)
	}
	if r.start > 0 || len(r.buf) != need {
		r.move(need)
	}
	n, err := r.r.Read(r.buf[r.end:])
	r.end += n
	switch {
	case n > 0:
		return nil
	case err == io.EOF && r.end > 0:
		return io.ErrUnexpectedEOF
	case err == nil:
		return io.ErrNoProgress
	}
	return err
}

// move brings what is left to the front of a buffer of the given size and
// wipes the rest.
func (r *FrameReader) move(size int) {
	left := r.buf[r.start:r.end]
	if len(r.buf) != size {
		into := make([]byte, size)
		copy(into, left)
		clear(r.buf[:r.end])
		r.buf = into
	} else {
		copy(r.buf, left)
		clear(r.buf[len(left):r.end])
	}
	r.start, r.end = 0, len(left)
}

// ErrLate answers a call whose caller has given up.
var ErrLate = backends.Errorf(backends.Timeout, "the deadline passed before the token answered")
