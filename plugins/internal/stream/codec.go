package stream

import (
	"bytes"
	"context"
	"errors"
	"reflect"

	"github.com/fxamacker/cbor/v2"

	"cmkd/backends"
)

// maxObjects bounds the elements of one array: the keys in a ListKeysAnswer.
const maxObjects = 1 << 20

// Encoding is deterministic CBOR (RFC 8949 section 4.2.1).
var Encoding = must(cbor.EncOptions{
	Sort:        cbor.SortCoreDeterministic,
	IndefLength: cbor.IndefLengthForbidden,
	TagsMd:      cbor.TagsForbidden,
}.UserBufferEncMode())

// Decoding accepts nothing that encoding would not have made: the other side
// shares its memory with vendor code and may send anything.
var Decoding = must(cbor.DecOptions{
	DupMapKey:         cbor.DupMapKeyEnforcedAPF,
	IndefLength:       cbor.IndefLengthForbidden,
	TagsMd:            cbor.TagsForbidden,
	UTF8:              cbor.UTF8RejectInvalid,
	ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	MaxNestedLevels:   8,
	MaxArrayElements:  maxObjects,
	MaxMapPairs:       1024,
}.DecMode())

// must unwraps the modes above, whose options are constants.
func must[M any](m M, err error) M {
	if err != nil {
		panic("plugins: CBOR options: " + err.Error())
	}
	return m
}

// WireError is [backends.Error] on its way.
type WireError struct {
	Code    backends.Code `cbor:"1,keyasint"`
	Message string        `cbor:"2,keyasint,omitempty"`
	RV      uint          `cbor:"3,keyasint,omitempty"`
	Unsure  bool          `cbor:"4,keyasint,omitempty"`
}

// ToWire gives err a code. Only a [backends.Error] is known to hold no secret,
// so the text of any other error stays in the plugin.
func ToWire(err error) WireError {
	if e, ok := errors.AsType[*backends.Error](err); ok {
		return WireError{e.Code, e.Message, e.RV, e.Unsure}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return WireError{Code: backends.Timeout, Message: "the deadline has passed"}
	}
	return WireError{Code: backends.Internal, Message: "the backend failed without saying how"}
}

func (w WireError) Err() *backends.Error {
	return &backends.Error{Code: backends.Code(Told(string(w.Code))), Message: Told(w.Message), RV: w.RV, Unsure: w.Unsure}
}

// Wipe overwrites what a message has secret.
func Wipe(message any) {
	if s, ok := message.(backends.Secret); ok {
		s.Wipe()
	}
}

// reserve makes room for n bytes more in a buffer: one that grows while a message
// is encoded leaves a copy of it behind.
func reserve(b *bytes.Buffer, n int) {
	if b.Available() >= n {
		return
	}
	old := b.Bytes()
	larger := append(make([]byte, 0, 2*len(old)+max(n, minBuffer)), old...)
	clear(old)
	*b = *bytes.NewBuffer(larger)
}

// minBuffer is the smallest buffer for messages in bytes: most of them have room.
const minBuffer = 1 << 10

// ReserveFor makes room for the frame of a message where a secret would be left behind
// otherwise: its own, or one of a message that is in the buffer.
func ReserveFor(b *bytes.Buffer, message any) {
	if n := sizeOf(message); n > 0 {
		reserve(b, FrameHeader+n)
		return
	}
	if _, secret := message.(backends.Secret); secret || b.Len() > 0 {
		reserve(b, FrameHeader+sizeOfValue(reflect.ValueOf(message)))
	}
}

// Encode appends the CBOR of a message to a buffer in which reserveFor has made room.
func Encode(b *bytes.Buffer, message any) error {
	if out, ok := appendMessage(b.AvailableBuffer(), message); ok {
		b.Write(out) // which is there already
		return nil
	}
	return Encoding.MarshalToBuffer(message, b)
}

// DecodeCopy reads a message of which nothing lies in b afterwards. What was copied is the
// message's alone: its Wipe leaves no secret behind.
func DecodeCopy(b []byte, message any) error {
	if sizeOf(message) == 0 {
		return Decoding.Unmarshal(b, message)
	}
	b = bytes.Clone(b)
	_, err := readMessage(b, message)
	if err != nil {
		clear(b)
	}
	return err
}

// decode reads a message, whose byte strings may lie in b afterwards.
func decode(b []byte, message any) error {
	if known, err := readMessage(b, message); known {
		return err
	}
	return Decoding.Unmarshal(b, message)
}

// headSize is the most that CBOR needs for a number, and for the beginning of
// anything else.
const headSize = 9

// sizeOfValue is more than the CBOR of a value takes. It knows the kinds of fields
// that messages have; a test checks them against it.
func sizeOfValue(v reflect.Value) int {
	n := headSize
	switch v.Kind() {
	case reflect.String:
		n += v.Len()
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return n + v.Len()
		}
		for i := range v.Len() {
			n += sizeOfValue(v.Index(i))
		}
	case reflect.Map:
		for k, e := range v.Seq2() {
			n += sizeOfValue(k) + sizeOfValue(e)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			n += sizeOfValue(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += headSize + sizeOfValue(v.Field(i))
		}
	default: // a number or a Boolean
	}
	return n
}
