package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// maxLine is the longest line in bytes. A key's policy has at most 32 KiB.
const maxLine = 16 << 20

// Found is what [Read] finds around the rows.
type Found struct {
	Header Header
	Head   *Head // nil if there is none
	Seal   Seal
	Size   int64 // of the file, in bytes
}

// Read reads a backup to its end, hands each row to the visitor, and compares the sum.
// What the visitor was given counts only if Read succeeds, and nothing in it is
// authentic before the MAC of the seal has been verified. Errors: [ErrFormat],
// [ErrDamaged], those of the file, and the visitor's, as it is.
func Read(from io.Reader, visit func(*Row) error) (*Found, error) {
	r := &reader{from: bufio.NewReaderSize(from, 64<<10), sum: sha256.New()}
	f := &Found{}
	if err := r.header(&f.Header); err != nil {
		return nil, err
	}
	rows := 0
	for {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		switch {
		case bytes.HasPrefix(line, []byte(sealStart)):
			return f, r.end(f, line, rows)
		case f.Head != nil:
			return nil, fmt.Errorf("%w: there is something between the head and the end", ErrDamaged)
		case bytes.HasPrefix(line, []byte(headStart)):
			if f.Head, err = parseHead(line); err != nil {
				return nil, err
			}
		default:
			row, err := parseRow(line)
			if err != nil {
				return nil, err
			}
			if err := visit(row); err != nil {
				return nil, err
			}
			rows++
		}
		r.take(line)
	}
}

// reader reads lines, and sums up those that it is told to.
type reader struct {
	from *bufio.Reader
	sum  hash.Hash
	size int64
}

// line returns the next line with its newline. It is good until the next call.
func (r *reader) line() ([]byte, error) {
	line, err := r.from.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxLine {
			var more []byte
			more, err = r.from.ReadSlice('\n')
			line = append(line, more...)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it is truncated", ErrDamaged)
	case errors.Is(err, bufio.ErrBufferFull), err == nil && len(line) > maxLine:
		return nil, fmt.Errorf("%w: a line is longer than any of a backup", ErrDamaged)
	case err != nil:
		return nil, fmt.Errorf("reading the backup: %w", err)
	}
	return line, nil
}

func (r *reader) take(line []byte) {
	_, _ = r.sum.Write(line) // a hash does not fail
	r.size += int64(len(line))
}

// header reads the first line, which tells a backup from any other file.
func (r *reader) header(h *Header) error {
	line, err := r.line()
	if errors.Is(err, ErrDamaged) || err == nil && json.Unmarshal(line, h) != nil {
		return ErrFormat
	}
	if err != nil {
		return err
	}
	if h.Format != Format {
		return fmt.Errorf("%w: its format is %d, want %d", ErrFormat, h.Format, Format)
	}
	again, err := json.Marshal(h)
	if err != nil || !bytes.Equal(append(again, '\n'), line) {
		return fmt.Errorf("%w: its first line is not as cmkd writes it", ErrDamaged)
	}
	r.take(line)
	return nil
}

// end reads the seal, after which there must be nothing.
func (r *reader) end(f *Found, line []byte, rows int) error {
	f.Size = r.size + int64(len(line))
	text, ok := strings.CutPrefix(string(line), sealStart)
	sum, mac, ok2 := strings.Cut(strings.TrimSuffix(text, quoteEnd), `","mac":"`)
	found, err := hex.DecodeString(sum)
	if !ok || !ok2 || err != nil || len(found) != sha256.Size {
		return fmt.Errorf("%w: its last line is not as cmkd writes it", ErrDamaged)
	}
	f.Seal.Sum = [sha256.Size]byte(found)
	if f.Seal.MAC, err = hex.DecodeString(mac); err != nil || len(f.Seal.MAC) != MACSize || f.Seal.line() != string(line) {
		return fmt.Errorf("%w: its last line is not as cmkd writes it", ErrDamaged)
	}
	if [sha256.Size]byte(r.sum.Sum(nil)) != f.Seal.Sum {
		return fmt.Errorf("%w: it is not what was written", ErrDamaged)
	}
	if rows != f.Header.Rows {
		return fmt.Errorf("%w: it has %d rows, and says %d", ErrDamaged, rows, f.Header.Rows)
	}
	if _, err := r.from.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("%w: something follows its end", ErrDamaged), err)
	}
	return nil
}

func parseRow(line []byte) (*Row, error) {
	rest, ok := bytes.CutPrefix(line, []byte(rowStart))
	table, document, ok2 := bytes.Cut(bytes.TrimSuffix(rest, []byte(rowEnd)), []byte(rowMiddle))
	if !ok || !ok2 || !bytes.HasSuffix(rest, []byte(rowEnd)) {
		return nil, fmt.Errorf("%w: a line is not as cmkd writes it", ErrDamaged)
	}
	return &Row{string(table), bytes.Clone(document)}, nil
}

func parseHead(line []byte) (*Head, error) {
	const tail = len(headMiddle) + 2*MACSize + len(quoteEnd)
	rest := line[len(headStart):]
	if len(rest) < tail || !bytes.HasPrefix(rest[len(rest)-tail:], []byte(headMiddle)) || !bytes.HasSuffix(rest, []byte(quoteEnd)) {
		return nil, fmt.Errorf("%w: the line of its head is not as cmkd writes it", ErrDamaged)
	}
	mac, err := hex.DecodeString(string(rest[len(rest)-tail+len(headMiddle) : len(rest)-len(quoteEnd)]))
	if err != nil {
		return nil, fmt.Errorf("%w: the line of its head is not as cmkd writes it", ErrDamaged)
	}
	return &Head{bytes.Clone(rest[:len(rest)-tail]), mac}, nil
}
