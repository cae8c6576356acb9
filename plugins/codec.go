package plugins

import (
	"context"
	"errors"

	"github.com/fxamacker/cbor/v2"

	"cmkd/backends"
)

// maxObjects bounds the elements of one array: the keys in a ListKeysAnswer.
const maxObjects = 1 << 20

// encoding is deterministic CBOR (RFC 8949 section 4.2.1).
var encoding = must(cbor.EncOptions{
	Sort:        cbor.SortCoreDeterministic,
	IndefLength: cbor.IndefLengthForbidden,
	TagsMd:      cbor.TagsForbidden,
}.UserBufferEncMode())

// decoding accepts nothing that encoding would not have made: the other side
// shares its memory with vendor code and may send anything.
var decoding = must(cbor.DecOptions{
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

// wireError is [backends.Error] on its way.
type wireError struct {
	Code    backends.Code `cbor:"1,keyasint"`
	Message string        `cbor:"2,keyasint,omitempty"`
	RV      uint          `cbor:"3,keyasint,omitempty"`
}

// toWire gives err a code. Only a [backends.Error] is known to hold no secret,
// so the text of any other error stays in the plugin.
func toWire(err error) wireError {
	if e, ok := errors.AsType[*backends.Error](err); ok {
		return wireError{e.Code, e.Message, e.RV}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wireError{Code: backends.Timeout, Message: "the deadline has passed"}
	}
	return wireError{Code: backends.Internal, Message: "the backend failed without saying how"}
}

func (w wireError) err() *backends.Error {
	return &backends.Error{Code: backends.Code(told(string(w.Code))), Message: told(w.Message), RV: w.RV}
}
