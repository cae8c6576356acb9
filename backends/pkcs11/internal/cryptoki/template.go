package cryptoki

// #include "cryptoki.h"
import "C"

import (
	"encoding/binary"
	"slices"
	"unsafe"
)

// ulong is sizeof(CK_ULONG): unsigned long, in the byte order of the machine.
const ulong = int(unsafe.Sizeof(C.CK_ULONG(0)))

// AppendULong appends v as a CK_ULONG, as in attribute values and in the
// parameters of mechanisms.
func AppendULong(b []byte, v uint) []byte {
	if ulong == 4 {
		return binary.NativeEndian.AppendUint32(b, uint32(v))
	}
	return binary.NativeEndian.AppendUint64(b, uint64(v))
}

// EDDSAParams is CK_EDDSA_PARAMS without a context (PKCS#11 3.0 Current
// Mechanisms, section 2.3.10): a CK_BBOOL, a length and a pointer, each of the
// last two as long as a CK_ULONG on every Unix.
func EDDSAParams(prehashed bool) []byte {
	b := make([]byte, 3*ulong)
	if prehashed {
		b[0] = 1
	}
	return b
}

func uLong(b []byte) uint {
	if ulong == 4 {
		return uint(binary.NativeEndian.Uint32(b))
	}
	return uint(binary.NativeEndian.Uint64(b))
}

// Template is a list of at most 48 attributes, in the form of the comment at
// cmkd_template in cryptoki.h: flat, so that no Go pointer lies in memory that
// C reads.
type Template []byte

// Bool appends a CK_BBOOL attribute.
func (t Template) Bool(attribute uint, v bool) Template {
	value := []byte{0}
	if v {
		value[0] = 1
	}
	return t.Bytes(attribute, value)
}

// ULong appends a CK_ULONG attribute.
func (t Template) ULong(attribute, v uint) Template {
	return t.ULongs(attribute, v)
}

// ULongs appends an attribute that is an array of CK_ULONGs.
func (t Template) ULongs(attribute uint, vs ...uint) Template {
	value := make([]byte, 0, len(vs)*ulong)
	for _, v := range vs {
		value = AppendULong(value, v)
	}
	return t.Bytes(attribute, value)
}

// Reserve makes room for attributes with values of n bytes in all: a template that
// grows leaves a copy behind, which nobody wipes.
func (t Template) Reserve(attributes, n int) Template {
	return slices.Grow(t, n+3*ulong*attributes)
}

// Bytes appends an attribute of any value.
func (t Template) Bytes(attribute uint, value []byte) Template {
	t = t.Reserve(1, len(value))
	t = AppendULong(t, attribute)
	t = AppendULong(t, uint(len(value)))
	t = append(t, value...)
	return append(t, make([]byte, padding(len(value)))...)
}

// Without returns the template without some attributes.
func (t Template) Without(attributes ...uint) Template {
	if len(attributes) == 0 {
		return t
	}
	out := make(Template, 0, len(t))
	for len(t) > 0 {
		n := int(uLong(t[ulong:]))
		n += 2*ulong + padding(n)
		if !slices.Contains(attributes, uLong(t)) {
			out = append(out, t[:n]...)
		}
		t = t[n:]
	}
	return out
}

func padding(n int) int { return (ulong - n%ulong) % ulong }

func (t Template) c() C.cmkd_template {
	return C.cmkd_template{
		records: (*C.CK_BYTE)(unsafe.SliceData([]byte(t))),
		len:     C.CK_ULONG(len(t)),
	}
}

// Query asks for the values of attributes. It may be used again.
type Query struct {
	records []byte
	fields  []field
}

// field is where the value of an attribute is in the records.
type field struct {
	attribute uint
	at, room  int
}

// Ask appends an attribute whose value has at most room bytes.
func (q *Query) Ask(attribute uint, room int) {
	q.records = AppendULong(q.records, attribute)
	q.records = AppendULong(q.records, uint(room))
	q.fields = append(q.fields, field{attribute, len(q.records), room})
	q.records = append(q.records, make([]byte, room+padding(room))...)
}

// AskBool appends CK_BBOOL attributes, AskULong CK_ULONG ones.
func (q *Query) AskBool(attributes ...uint) {
	for _, a := range attributes {
		q.Ask(a, 1)
	}
}

// AskULong appends CK_ULONG attributes.
func (q *Query) AskULong(attributes ...uint) {
	for _, a := range attributes {
		q.Ask(a, ulong)
	}
}

// AskULongs appends an attribute that is an array of at most n CK_ULONGs.
func (q *Query) AskULongs(attribute uint, n int) { q.Ask(attribute, n*ulong) }

// Reset makes q ready for another object: values are zeroed and the lengths
// that a call overwrote are set to the room there is.
func (q *Query) Reset() {
	for _, f := range q.fields {
		AppendULong(q.records[f.at-ulong:f.at-ulong], uint(f.room))
		clear(q.records[f.at : f.at+f.room])
	}
}

// Value returns an attribute's value, which is valid until the next Reset, and
// whether the object has it and gave it.
func (q *Query) Value(attribute uint) ([]byte, bool) {
	for _, f := range q.fields {
		if f.attribute != attribute {
			continue
		}
		n := uLong(q.records[f.at-ulong : f.at])
		if n > uint(f.room) {
			return nil, false
		}
		return q.records[f.at : f.at+int(n)], true
	}
	return nil, false
}

// Bool returns the value of a CK_BBOOL attribute.
func (q *Query) Bool(attribute uint) (value, ok bool) {
	b, ok := q.Value(attribute)
	if !ok || len(b) != 1 {
		return false, false
	}
	return b[0] != 0, true
}

// ULong returns the value of a CK_ULONG attribute.
func (q *Query) ULong(attribute uint) (uint, bool) {
	b, ok := q.Value(attribute)
	if !ok || len(b) != ulong {
		return 0, false
	}
	return uLong(b), true
}

// ULongs returns the value of an attribute that is an array of CK_ULONGs.
func (q *Query) ULongs(attribute uint) ([]uint, bool) {
	b, ok := q.Value(attribute)
	if !ok || len(b)%ulong != 0 {
		return nil, false
	}
	vs := make([]uint, 0, len(b)/ulong)
	for ; len(b) > 0; b = b[ulong:] {
		vs = append(vs, uLong(b))
	}
	return vs, true
}
