package kmsapi

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxSkippedDepth bounds the nesting of a member that the API does not know.
// The model itself nests three deep.
const maxSkippedDepth = 64

// maxKeptScratch is the largest scratch buffer, in bytes, that an idle decoder keeps.
const maxKeptScratch = 64 << 10

// decoder reads one request body from left to right and collects what breaks the model's constraints.
//
// Its first error sticks: after it every method does nothing, so the generated code need not check each step.
// A decoder that fails on the form of the body (SerializationException) reports no constraints; AWS does the same.
type decoder struct {
	json jsontext.Decoder
	src  bytes.Buffer
	err  error

	name    []byte // of the member being read; valid until the next read
	path    []byte // of the structure being read, as in "tags.1.member."
	scratch []byte // for strings with escapes
	faults  faults
}

// decoders keeps decoders between calls: a decoder's JSON state is larger than most request bodies.
var decoders = sync.Pool{New: func() any { return new(decoder) }}

// structure is a pointer to a generated structure. Its decode reads the members of an object whose brace is
// already read, up to and with the closing one.
type structure[T any] interface {
	*T
	decode(*decoder)
}

// decodeBody reads body, a JSON object, into in and checks it against the model.
// An empty body counts as an empty object. The error is always an *Error.
func decodeBody[T any, P structure[T]](body []byte, in P) error {
	*in = *new(T)
	if len(body) == 0 {
		body = []byte("{}")
	}
	d, _ := decoders.Get().(*decoder)
	defer d.release()
	// jsontext reads a bytes.Buffer in place, without a copy of a body that may hold plaintext.
	d.src = *bytes.NewBuffer(body)
	d.json.Reset(&d.src)

	switch d.json.PeekKind() {
	case '{':
		d.token()
		in.decode(d)
	case '[':
		d.mismatch('[', "")
	default:
		d.malformed(nil)
	}
	d.end()
	if d.err != nil {
		return d.err
	}
	return d.faults.err()
}

// release gives the decoder back, keeping neither the body nor anything read from it.
func (d *decoder) release() {
	d.forget()
	decoders.Put(d)
}

func (d *decoder) forget() {
	d.src = bytes.Buffer{}
	d.json.Reset(&d.src)
	clear(d.scratch[:cap(d.scratch)])
	if cap(d.scratch) > maxKeptScratch {
		d.scratch = nil
	}
	d.err, d.name, d.path, d.faults = nil, nil, d.path[:0], faults{}
}

// end expects that nothing but white space is left.
func (d *decoder) end() {
	if d.err != nil {
		return
	}
	if _, err := d.json.ReadToken(); !errors.Is(err, io.EOF) {
		d.malformed(err)
	}
}

// malformed fails the body. AWS sends no message for a body that is not JSON;
// what this package refuses beyond that is said.
func (d *decoder) malformed(err error) {
	if d.err != nil {
		return
	}
	refused := &Error{Code: CodeSerializationException}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		refused.Message = "Duplicate member name in object"
	}
	d.err = refused
}

// mismatch fails the body because a value of kind stands where want was expected.
// The texts are those of AWS's deserialiser; none of them shows the value.
func (d *decoder) mismatch(kind jsontext.Kind, want string) {
	if d.err != nil {
		return
	}
	var text string
	switch kind {
	case '[':
		text = "Start of list found where not expected"
	case '{':
		text = "Start of structure or map found where not expected."
	case '"':
		text = "STRING_VALUE can not be converted to " + want
	case '0':
		text = "NUMBER_VALUE can not be converted to " + want
	case 't':
		text = "TRUE_VALUE can not be converted to " + want
	case 'f':
		text = "FALSE_VALUE can not be converted to " + want
	default: // not JSON
		_, err := d.json.ReadToken()
		d.malformed(err)
		return
	}
	d.err = &Error{Code: CodeSerializationException, Message: text}
}

// value says whether the next value is of the wanted kind.
// A null is consumed and counts as absent; anything else fails the body.
func (d *decoder) value(kind jsontext.Kind, want string) bool {
	if d.err != nil {
		return false
	}
	switch got := d.json.PeekKind(); got {
	case kind:
		return true
	case 'n':
		d.token()
	default:
		d.mismatch(got, want)
	}
	return false
}

// object opens a structure or a map, list opens a list; null counts as absent.
func (d *decoder) object() bool { return d.open('{', "Expected null") }
func (d *decoder) list() bool   { return d.open('[', "Expected list or null") }

// open is value for lists, maps and structures, which AWS words differently, and reads the opening bracket.
func (d *decoder) open(kind jsontext.Kind, expected string) bool {
	if d.err != nil {
		return false
	}
	switch got := d.json.PeekKind(); got {
	case kind:
		d.token()
		return d.err == nil
	case 'n':
		d.token()
	case '"', '0', 't', 'f':
		d.err = &Error{Code: CodeSerializationException, Message: expected}
	default:
		d.mismatch(got, "")
	}
	return false
}

// token reads the next token.
func (d *decoder) token() jsontext.Token {
	t, err := d.json.ReadToken()
	if err != nil {
		d.malformed(err)
	}
	return t
}

// text reads a JSON string, unescaped. It is valid until the next read.
func (d *decoder) text() []byte {
	raw, err := d.json.ReadValue()
	if err != nil {
		d.malformed(err)
		return nil
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	if cap(d.scratch) < len(raw) { // growing would leave a copy behind
		clear(d.scratch[:cap(d.scratch)])
		d.scratch = make([]byte, 0, len(raw))
	}
	d.scratch, err = jsontext.AppendUnquote(d.scratch[:0], raw)
	if err != nil {
		d.malformed(err)
	}
	return d.scratch
}

// member moves to the next member of the object being read and sets d.name.
// It is false at the object's end, which it consumes.
func (d *decoder) member() bool {
	if d.err != nil {
		return false
	}
	switch d.json.PeekKind() {
	case '"':
		d.name = d.text()
	default: // '}', or no JSON
		d.token()
		return false
	}
	return d.err == nil
}

// item moves to the next item of the list being read. It is false at the list's end, which it consumes.
func (d *decoder) item() bool {
	if d.err != nil {
		return false
	}
	if d.json.PeekKind() == ']' {
		d.token()
		return false
	}
	return true
}

// skip passes over the value of a member that the API does not know. AWS ignores those too.
func (d *decoder) skip() {
	depth := d.json.StackDepth()
	for d.err == nil {
		d.token()
		switch now := d.json.StackDepth(); {
		case now <= depth:
			return
		case now > depth+maxSkippedDepth:
			d.malformed(nil)
		}
	}
}

// enter makes path the place that faults are reported at; leave takes it back.
func (d *decoder) enter(name string) (mark int) {
	mark = len(d.path)
	d.path = append(appendLowerCamel(d.path, name), '.')
	return mark
}

func (d *decoder) leave(mark int) { d.path = d.path[:mark] }

// appendLowerCamel appends a member's name as AWS writes it in messages: KeyId as keyId.
func appendLowerCamel(b []byte, name string) []byte {
	first, n := utf8.DecodeRuneInString(name)
	return append(utf8.AppendRune(b, unicode.ToLower(first)), name[n:]...)
}

func (d *decoder) string(name string, shape *stringShape, dst *string) (present bool) {
	if !d.value('"', "a String") {
		return false
	}
	*dst = string(d.text())
	d.checkString(name, shape, *dst)
	return true
}

func (d *decoder) blob(name string, shape *blobShape, dst *[]byte) (present bool) {
	if !d.value('"', "a Blob") {
		return false
	}
	text := d.text()
	blob := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := strictBase64.Decode(blob, text)
	if d.err == nil && (err != nil || bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0) {
		// The value may be plaintext: it is not shown, nor kept.
		clear(blob)
		d.err = &Error{Code: CodeSerializationException, Message: "Value at '" + d.at(name) + "' can not be converted to a Blob"}
		return false
	}
	if d.err != nil {
		clear(blob)
	}
	*dst = blob[:n]
	d.checkBlob(name, shape, n)
	return true
}

// strictBase64 is the standard alphabet with padding and without stray bits in the last character.
var strictBase64 = base64.StdEncoding.Strict()

func (d *decoder) bool(dst *bool) (present bool) {
	if d.err != nil {
		return false
	}
	switch kind := d.json.PeekKind(); kind {
	case 't', 'f':
		t := d.token() // which may turn out to be no more than the start of a literal
		if d.err != nil {
			return false
		}
		*dst = t.Bool()
		return true
	case 'n':
		d.token()
	default:
		d.mismatch(kind, "a Boolean")
	}
	return false
}

// told reads a Boolean that stays nil if the member is absent or null.
func (d *decoder) told(dst **bool) (present bool) {
	var value bool
	if present = d.bool(&value); present {
		*dst = &value
	}
	return present
}

// int32 reads an integer. A fraction is cut off and a number out of int32's range breaks the shape's range,
// as with AWS. The generator makes sure that every integer of the model has a range.
func (d *decoder) int32(name string, shape *intShape, dst *int32) (present bool) {
	if !d.value('0', "an Integer") {
		return false
	}
	t := d.token()
	if d.err != nil {
		return false
	}
	n, _ := t.Int() // errors mean only "cut off" and "saturated"
	*dst = int32(min(max(n, math.MinInt32), math.MaxInt32))
	d.checkInt(name, shape, n)
	return true
}

// The years 1 to 9999 in seconds of the Unix epoch.
const (
	minEpochSeconds = -62135596800
	maxEpochSeconds = 253402300799
)

// time reads seconds since the epoch; a fraction is rounded to the millisecond.
func (d *decoder) time(dst *time.Time) (present bool) {
	const want = "milliseconds since epoch"
	if !d.value('0', want) {
		return false
	}
	t := d.token()
	if d.err != nil {
		return false
	}
	seconds, err := t.Float()
	if err != nil || seconds <= minEpochSeconds || seconds > maxEpochSeconds {
		d.mismatch('0', want)
		return false
	}
	*dst = time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return true
}
