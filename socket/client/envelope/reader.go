package envelope

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Reader opens a message. What it returns is authentic but may be a beginning
// only, and of a [Signed] message not yet verified: the end is known to be the end,
// and the signature right, when Read returns io.EOF. Where another error comes
// instead, what was read must be discarded.
type Reader struct {
	// Header of the message, authenticated.
	Header *Header

	content  content
	verifier *verifier
	src      io.Reader // after the header
	frames   int       // of a chunk
	pipe     *pipeline

	current *chunk
	rest    []byte // of the current chunk
	err     error  // of all further reads
	closed  bool
	read    chan struct{} // closed when src is not read any more
}

// NewReader reads the header of a message from src, decrypts the data key and returns a
// reader of the content. It may have read beyond the end of the message, after which
// src must end. The error is [ErrInvalid], [ErrUncommitted], or the keyring's.
// Close must be called.
func NewReader(ctx context.Context, src io.Reader, keys Keyring, options Options) (*Reader, error) {
	buffered := bufio.NewReader(src)
	h, err := readHeader(buffered)
	if err != nil {
		return nil, err
	}
	p, err := h.Suite.known()
	if err != nil {
		return nil, err
	}
	if !p.commits && !options.AllowUncommitted {
		return nil, fmt.Errorf("%w: suite %s", ErrUncommitted, h.Suite)
	}
	for name, value := range options.Context {
		if got, ok := h.Context[name]; !ok || got != value {
			return nil, fmt.Errorf("%w: %q is not %q in the message's encryption context", ErrContext, name, value)
		}
	}
	verifier, err := newVerifier(p, h.Context)
	if err != nil {
		return nil, err
	}
	dataKey, err := keys.Decrypt(ctx, h.Keys, p.keyLen, h.Context)
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	aead, commitment, err := h.Suite.derive(dataKey, h.MessageID)
	if err != nil {
		return nil, err
	}
	if err := h.authenticate(aead, commitment); err != nil {
		return nil, err
	}
	r := &Reader{Header: h, content: content{aead, h.MessageID}, verifier: verifier, read: make(chan struct{})}
	// What has been buffered, then src itself, which is read in larger pieces.
	ahead, err := buffered.Peek(buffered.Buffered())
	if err != nil {
		return nil, err
	}
	r.src = io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), src)
	_, _ = buffered.Discard(len(ahead)) // of src itself, if that is buffered
	if verifier.key != nil {
		verifier.hash.Write(h.raw)
		if h.Version == 1 {
			verifier.hash.Write(h.authIV)
		}
		verifier.hash.Write(h.tag)
	}
	r.start(ctx)
	return r, nil
}

// ErrContext means that the message's encryption context is not the one demanded.
var ErrContext = errors.New("another encryption context")

// start reads and decrypts ahead.
func (r *Reader) start(ctx context.Context) {
	n, chunks := r.Header.FrameLen, 2
	if n > 0 {
		r.frames, chunks = shape(n)
	}
	r.pipe = newPipeline(ctx, chunks, func(c *chunk) {
		if c.err == nil && !c.end {
			c.plain, c.err = r.content.open(c.plain[:0], c.sealed, n, c.first)
		}
	})
	go func() {
		defer close(r.read)
		defer r.pipe.close()
		if n == 0 {
			r.readWhole()
		} else {
			r.readFrames(n)
		}
	}()
}

// readFrames reads the frames and submits them in chunks, and the end.
func (r *Reader) readFrames(n int) {
	frame := n + frameOverhead
	var carry []byte // of a frame that had not been read in whole
	for sequence := uint32(1); ; {
		c, err := r.pipe.take()
		if err != nil {
			return
		}
		if c.sealed == nil {
			c.sealed = make([]byte, r.frames*frame)
			c.plain = make([]byte, 0, r.frames*n)
		}
		b := c.sealed[:cap(c.sealed)]
		have := copy(b, carry)
		got, err := io.ReadAtLeast(r.src, b[have:], max(0, frame-have))
		b = b[:have+got]
		whole, marked := r.ordinary(b, n, sequence)
		c.sealed, c.first, c.end, c.err = b[:whole], sequence, false, nil
		count := uint32(whole / frame)
		rest := b[whole:]
		switch {
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			c.err = cut(err)
		case marked != nil:
			c.err = marked
		case len(rest) >= 4 && binary.BigEndian.Uint32(rest) == finalMark:
			rest = bytes.Clone(rest)
			r.hash(c.sealed)
			r.pipe.submit(c)
			r.submitEnd(io.MultiReader(bytes.NewReader(rest), r.src), n, sequence+count)
			return
		case err != nil:
			c.err = cut(err)
		}
		carry = append(carry[:0], rest...)
		r.hash(c.sealed)
		failed := c.err != nil
		r.pipe.submit(c)
		if failed {
			return
		}
		sequence += count
	}
}

// ordinary returns how many bytes at the beginning of b are whole ordinary frames,
// and an error if the next one has another sequence number.
func (r *Reader) ordinary(b []byte, n int, sequence uint32) (int, error) {
	whole := 0
	for ; len(b)-whole >= 4; sequence++ {
		switch got := binary.BigEndian.Uint32(b[whole:]); {
		case got == finalMark:
			return whole, nil
		case got != sequence:
			return whole, fmt.Errorf("%w: frame %d where %d should be", ErrInvalid, got, sequence)
		case len(b)-whole < n+frameOverhead:
			return whole, nil
		}
		whole += n + frameOverhead
	}
	return whole, nil
}

// hash adds to what the signature is of.
func (r *Reader) hash(b []byte) {
	if r.verifier.key != nil {
		r.verifier.hash.Write(b)
	}
}

// submitEnd reads the final frame and what follows, and submits it.
func (r *Reader) submitEnd(src io.Reader, n int, sequence uint32) {
	c, err := r.pipe.take()
	if err != nil {
		return
	}
	c.end = true
	c.plain, c.err = r.readFinal(c.plain[:0], src, n, sequence)
	r.pipe.submit(c)
}

// readFinal reads the final frame, whose content it appends to dst, and what
// follows.
func (r *Reader) readFinal(dst []byte, src io.Reader, n int, sequence uint32) ([]byte, error) {
	head := make([]byte, finalHead)
	if _, err := io.ReadFull(src, head); err != nil {
		return nil, cut(err)
	}
	if got := binary.BigEndian.Uint32(head[4:]); got != sequence {
		return nil, fmt.Errorf("%w: frame %d where %d should be", ErrInvalid, got, sequence)
	}
	length := binary.BigEndian.Uint32(head[finalHead-4:])
	if int64(length) > int64(n) {
		return nil, fmt.Errorf("%w: final frame of %d bytes, the others have %d", ErrInvalid, length, n)
	}
	r.hash(head)
	return r.readSealed(dst, src, head[8:8+ivLen], int(length), finalFrame, sequence)
}

// readWhole reads and submits content that is in one piece.
func (r *Reader) readWhole() {
	c, err := r.pipe.take()
	if err != nil {
		return
	}
	c.end = true
	head := make([]byte, ivLen+8)
	if _, err := io.ReadFull(r.src, head); err != nil {
		c.err = cut(err)
	} else if n := binary.BigEndian.Uint64(head[ivLen:]); n > MaxFrameLen {
		c.err = fmt.Errorf("%w: %d bytes in one piece, this reader takes up to %d", ErrInvalid, n, MaxFrameLen)
	} else {
		r.hash(head)
		c.plain, c.err = r.readSealed(nil, r.src, head[:ivLen], int(n), wholeContent, 1)
	}
	r.pipe.submit(c)
}

// readSealed reads the last n bytes of content with their tag, and the signature, to
// the end of src, and returns the content only if all is right.
func (r *Reader) readSealed(dst []byte, src io.Reader, iv []byte, n int, kind string, sequence uint32) ([]byte, error) {
	sealed := make([]byte, n+tagLen)
	if _, err := io.ReadFull(src, sealed); err != nil {
		return nil, cut(err)
	}
	r.hash(sealed)
	plain, err := r.content.openOne(dst, iv, sealed, kind, sequence)
	if err != nil {
		return nil, err
	}
	if err := r.readEnd(src); err != nil {
		clear(plain)
		return nil, err
	}
	return plain, nil
}

// readEnd reads the signature, if there is one, to the end of src.
func (r *Reader) readEnd(src io.Reader) error {
	if r.verifier.key != nil {
		if err := r.verifier.footer(src); err != nil {
			return err
		}
	}
	switch _, err := io.ReadFull(src, make([]byte, 1)); {
	case err == nil:
		return fmt.Errorf("%w: more follows its end", ErrInvalid)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading: %w", err)
	}
	return nil
}

// advance makes rest the content of the next chunk.
func (r *Reader) advance() error {
	for len(r.rest) == 0 {
		if r.err != nil {
			return r.err
		}
		if r.current != nil {
			r.pipe.free <- r.current
			r.current = nil
		}
		c, err := r.pipe.next()
		switch {
		case err != nil:
			r.err = err
		case c == nil:
			r.err = io.ErrUnexpectedEOF // the end is a chunk
		case c.err != nil:
			r.err = c.err
			r.pipe.cancel(c.err)
		default:
			r.current, r.rest = c, c.plain
			if c.end {
				r.err = io.EOF
			}
		}
	}
	return nil
}

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.advance(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (r *Reader) WriteTo(dst io.Writer) (int64, error) {
	total := int64(0)
	for {
		switch err := r.advance(); {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
		n, err := dst.Write(r.rest)
		r.rest, total = r.rest[n:], total+int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close ends the reading ahead and wipes what has been read and not been taken. It
// does not wait for a Read of src that blocks, and does not close src.
func (r *Reader) Close() error {
	if !r.closed {
		r.closed = true
		r.rest, r.err = nil, errors.New("the envelope is closed")
		r.pipe.cancel(r.err)
		go func() {
			<-r.read
			r.pipe.workers.Wait()
			r.pipe.wipe()
		}()
	}
	return nil
}
