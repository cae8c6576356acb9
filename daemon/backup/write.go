package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Writer writes a backup: the header, every row, the head, the seal.
type Writer struct {
	to   io.Writer
	sum  hash.Hash
	size int64
	err  error
}

// NewWriter returns a writer that has written the header.
func NewWriter(to io.Writer, h *Header) *Writer {
	w := &Writer{to: to, sum: sha256.New()}
	line, err := json.Marshal(h)
	w.err = err
	w.line(append(line, '\n'))
	return w
}

// Row writes a row.
func (w *Writer) Row(r *Row) error {
	if bytes.IndexByte(r.Document, '\n') >= 0 {
		return errors.New("a document of more than one line")
	}
	w.line([]byte(rowStart + r.Table + rowMiddle + string(r.Document) + rowEnd))
	return w.err
}

// The parts of lines that are always the same.
const (
	rowStart, rowMiddle, rowEnd = `{"table":"`, `","row":`, "}\n"
	headStart, headMiddle       = `{"head":`, `,"mac":"`
	sealStart                   = `{"sha256":"`
	quoteEnd                    = "\"}\n"
)

// Head writes the head.
func (w *Writer) Head(h *Head) error {
	if len(h.MAC) != MACSize {
		return fmt.Errorf("the MAC of the head has %d bytes, not %d", len(h.MAC), MACSize)
	}
	w.line([]byte(headStart + string(h.Document) + headMiddle + hex.EncodeToString(h.MAC) + quoteEnd))
	return w.err
}

func (w *Writer) line(text []byte) {
	if w.err != nil {
		return
	}
	w.sum.Write(text)
	w.size += int64(len(text))
	_, w.err = w.to.Write(text)
}

// Sum is the hash of all that has been written.
func (w *Writer) Sum() [sha256.Size]byte { return [sha256.Size]byte(w.sum.Sum(nil)) }

// Size is the length in bytes that the backup will have with its seal.
func (w *Writer) Size() int64 {
	return w.size + int64(len((&Seal{MAC: make([]byte, MACSize)}).line()))
}

// Close writes the seal.
func (w *Writer) Close(s *Seal) error {
	if w.err != nil {
		return w.err
	}
	_, err := io.WriteString(w.to, s.line())
	return err
}
