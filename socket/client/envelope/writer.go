package envelope

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
)

// Writer seals what is written to it.
type Writer struct {
	// Header of the message, as it has been written.
	Header *Header

	content  content
	frameLen int
	frames   int // of a chunk
	signer   *signer
	dst      io.Writer
	pipe     *pipeline

	current  *chunk
	sequence uint64 // of the next frame
	closed   bool
	closeErr error
	written  chan error // receives once, when all has been written to dst
}

// NewWriter writes the header of a message to dst and returns a writer for its
// content. The message is complete only once Close has returned nil. To give it up,
// end ctx and then close the writer, which returns the cause. Close leaves dst open.
func NewWriter(ctx context.Context, dst io.Writer, keys Keyring, options Options) (*Writer, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Header{Version: 2, Suite: o.Suite, MessageID: make([]byte, 32), Context: maps.Clone(o.Context), FrameLen: o.FrameLen}
	_, _ = rand.Read(h.MessageID) // never fails
	p, err := o.Suite.known()
	if err != nil {
		return nil, err
	}
	signer, key, err := newSigner(p)
	if err != nil {
		return nil, err
	}
	if signer != nil {
		if h.Context == nil {
			h.Context = map[string]string{}
		}
		h.Context[signatureContext] = key
	}
	dataKey, encrypted, err := keys.Generate(ctx, p.keyLen, h.Context)
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	h.Keys = encrypted
	aead, commitment, err := o.Suite.derive(dataKey, h.MessageID)
	if err != nil {
		return nil, err
	}
	h.commitment = commitment
	raw, err := h.append(nil)
	if err != nil {
		return nil, err
	}
	w := &Writer{Header: h, content: content{aead, h.MessageID}, frameLen: o.FrameLen, signer: signer, dst: dst, sequence: 1, written: make(chan error, 1)}
	// The IV of zeros is the header's alone: frames count from 1.
	if err := w.emit(aead.Seal(raw, make([]byte, ivLen), nil, raw)); err != nil {
		return nil, err
	}
	var chunks int
	w.frames, chunks = shape(o.FrameLen)
	w.pipe = newPipeline(ctx, chunks, func(c *chunk) {
		c.sealed = w.content.seal(c.sealed[:0], c.plain, w.frameLen, c.first, c.end)
	})
	go func() { w.written <- w.drain() }()
	return w, nil
}

// emit writes a part of the message.
func (w *Writer) emit(b []byte) error {
	if w.signer != nil {
		w.signer.hash.Write(b)
	}
	_, err := w.dst.Write(b)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// drain writes chunks as they get ready, and the signature.
func (w *Writer) drain() error {
	for {
		c, err := w.pipe.next()
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		if err := w.emit(c.sealed); err != nil {
			w.pipe.cancel(err)
			return err
		}
		w.pipe.free <- c
	}
	if w.signer == nil {
		return nil
	}
	footer, err := w.signer.footer()
	if err != nil {
		return err
	}
	if _, err := w.dst.Write(footer); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// room returns the part of the current chunk that is free.
func (w *Writer) room() ([]byte, error) {
	if w.closed {
		return nil, errors.New("the envelope is closed")
	}
	size := w.frames * w.frameLen
	if w.current != nil && len(w.current.plain) == size {
		w.submit(false)
	}
	if w.current == nil {
		if w.sequence+uint64(w.frames) >= math.MaxUint32 {
			return nil, fmt.Errorf("the format holds less than 2^32 frames: choose longer ones than %d bytes", w.frameLen)
		}
		c, err := w.pipe.take()
		if err != nil {
			return nil, err
		}
		if c.plain == nil {
			c.plain = make([]byte, 0, size)
			c.sealed = make([]byte, 0, size+w.frames*frameOverhead+finalHead+tagLen)
		}
		c.plain, w.current = c.plain[:0], c
	}
	return w.current.plain[len(w.current.plain):size], nil
}

// submit sends the current chunk on its way.
func (w *Writer) submit(end bool) {
	c := w.current
	w.current = nil
	c.first, c.end = uint32(w.sequence), end
	w.sequence += uint64(len(c.plain) / w.frameLen)
	w.pipe.submit(c)
}

// submitWhole sends the whole frames of the current chunk on their way.
func (w *Writer) submitWhole() error {
	rest := w.current.plain[len(w.current.plain)/w.frameLen*w.frameLen:]
	c := w.current
	w.current = nil
	if len(rest) > 0 {
		if _, err := w.room(); err != nil {
			w.current = c
			return err
		}
		w.current.plain = append(w.current.plain, rest...)
	}
	next := w.current
	c.plain = c.plain[:len(c.plain)-len(rest)]
	w.current = c
	w.submit(false)
	w.current = next
	return nil
}

// Write implements [io.Writer]. Its error may be that of an earlier write to dst, or
// the cause of the end of the context.
func (w *Writer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		room, err := w.room()
		if err != nil {
			return total, err
		}
		n := copy(room, p)
		w.current.plain = w.current.plain[:len(w.current.plain)+n]
		p, total = p[n:], total+n
	}
	return total, nil
}

// ReadFrom implements [io.ReaderFrom]: it reads src to its end. Where src is slow, frames
// are sealed as soon as they are complete.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	total := int64(0)
	for {
		room, err := w.room()
		if err != nil {
			return total, err
		}
		n, err := src.Read(room)
		w.current.plain = w.current.plain[:len(w.current.plain)+n]
		total += int64(n)
		if err == nil && n < len(room) && len(w.current.plain) >= w.frameLen {
			err = w.submitWhole()
		}
		switch {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// Close writes the end of the message. It returns the same error again.
func (w *Writer) Close() error {
	if w.closed {
		return w.closeErr
	}
	_, err := w.room() // there is a current chunk then
	w.closed = true
	if err != nil {
		w.pipe.cancel(err)
	} else {
		w.submit(true)
	}
	w.pipe.close()
	w.closeErr = errors.Join(err, <-w.written)
	if err != nil {
		w.closeErr = err
	}
	w.pipe.workers.Wait()
	w.pipe.cancel(errors.New("the envelope is closed"))
	w.pipe.wipe()
	return w.closeErr
}
