package stream

import (
	"encoding/binary"
	"math"
)

// put measures or writes a string.
func (w *wire) put(major byte, value []byte) {
	if w.does == measures {
		w.size += headSize + len(value)
		return
	}
	w.head(major, uint64(len(value)))
	w.b = append(w.b, value...)
}

// take reads a string.
func (w *wire) take(major byte) []byte {
	n := w.readHead(major)
	if n > uint64(len(w.b)) {
		w.bad = true
	}
	if w.bad {
		return nil
	}
	value := w.b[:n:n]
	w.b = w.b[n:]
	return value
}

// head writes a major type with its argument, in as few bytes as there can be.
func (w *wire) head(major byte, n uint64) {
	switch {
	case w.does == measures:
		w.size += headSize
	case n < 24:
		w.b = append(w.b, major|byte(n))
	case n <= math.MaxUint8:
		w.b = append(w.b, major|24, byte(n))
	case n <= math.MaxUint16:
		w.b = binary.BigEndian.AppendUint16(append(w.b, major|25), uint16(n))
	case n <= math.MaxUint32:
		w.b = binary.BigEndian.AppendUint32(append(w.b, major|26), uint32(n))
	default:
		w.b = binary.BigEndian.AppendUint64(append(w.b, major|27), n)
	}
}

// readHead reads what head writes, up to 2^32-1.
func (w *wire) readHead(major byte) uint64 {
	if w.bad || len(w.b) == 0 || w.b[0]&^31 != major {
		w.bad = true
		return 0
	}
	n, size := uint64(w.b[0]&31), 0
	if n >= 24 {
		size = 1 << (n - 24)
	}
	if n > 26 || len(w.b) < 1+size {
		w.bad = true
		return 0
	}
	least := uint64(0)
	switch rest := w.b[1:]; size {
	case 1:
		n, least = uint64(rest[0]), 24
	case 2:
		n, least = uint64(binary.BigEndian.Uint16(rest)), math.MaxUint8+1
	case 4:
		n, least = uint64(binary.BigEndian.Uint32(rest)), math.MaxUint16+1
	}
	w.bad = n < least
	w.b = w.b[1+size:]
	return n
}
