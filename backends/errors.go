package backends

import (
	"errors"
	"fmt"
	"strings"
)

// Code classifies a failure by what the caller can do about it.
type Code string

// The codes. Only the first group is the client's business.
const (
	// InvalidCiphertext: altered, truncated, of another key or context. One
	// shape for every cause, without detail.
	InvalidCiphertext Code = "InvalidCiphertext"
	// InvalidRequest: the input cannot be meant (a public key that does not
	// parse or lies on another curve, a digest of the wrong length).
	InvalidRequest Code = "InvalidRequest"
	// InvalidMaterial: imported material that does not unwrap.
	InvalidMaterial Code = "InvalidMaterial"
	// UnfitMaterial: imported material that unwraps, and is not a key of the
	// key's spec.
	UnfitMaterial Code = "UnfitMaterial"
	// Unsupported: the token lacks the mechanism. Message names it.
	Unsupported Code = "Unsupported"

	// KeyMissing: no object with this CKA_ID for now. It does not prove
	// deletion: tokens answer so after a logout.
	KeyMissing Code = "KeyMissing"
	// KeyDuplicate: two objects of one class with this CKA_ID; neither is used.
	KeyDuplicate Code = "KeyDuplicate"
	// KeyUnsafe: the attributes read back are not those of the template.
	KeyUnsafe Code = "KeyUnsafe"

	// TokenFull: the token makes no further object that stays. What needs none
	// goes on.
	TokenFull Code = "TokenFull"
	// TokenReadOnly: the same, since the token is write-protected.
	TokenReadOnly Code = "TokenReadOnly"
	// Busy: the token has no session or no memory for the call now
	// (CKR_SESSION_COUNT, CKR_DEVICE_MEMORY, CKR_HOST_MEMORY). Nothing was done,
	// and the process is as good as any other: the caller may try again later.
	Busy Code = "Busy"
	// LoginFailed: the PIN was refused. Not to be tried again until the
	// configuration changes: tokens lock.
	LoginFailed Code = "LoginFailed"
	// Lost: sessions, handles or the token itself are gone
	// (CKR_DEVICE_ERROR, CKR_SESSION_HANDLE_INVALID, …). The process must be
	// replaced; the call may be repeated on the new one.
	Lost Code = "Lost"
	// Spent: the process has used up what the token has room for in one process,
	// and makes or loads no further key. Those that it has go on, nothing was done,
	// and the call may be repeated on another process.
	Spent Code = "Spent"
	// Timeout: the deadline passed in or before the token call. The process
	// must be replaced; the call may be repeated on the new one.
	Timeout Code = "Timeout"
	// Away: there has been no process with the token for so long that it counts
	// as lasting.
	Away Code = "Away"
	// CutOff: calls of this caller with this key have ended plugin processes one
	// after the other, and are refused for a while. Message says until when.
	CutOff Code = "CutOff"
	// Internal: anything else. The same call would fail again.
	Internal Code = "Internal"
)

// Error is the failure of a call to a backend. It never holds key material,
// plaintext or a PIN.
type Error struct {
	Code Code
	// Message is for operators, and for clients where the code says so.
	Message string
	// RV is the CK_RV of the PKCS#11 call that failed, 0 if there was none.
	RV uint
	// Unsure, of a creation or an import: the token may have made the object, or make it
	// later. [Lost] and [Timeout] mean so without it. Where [Busy] and [KeyMissing] do not say
	// so, nothing was made, and another token of the same keys is asked.
	Unsure bool
}

// Doubt returns err with Unsure set. An error without an [*Error] in its chain is returned as
// it is.
func Doubt(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Unsure {
		return err
	}
	marked := *e
	marked.Message = strings.Replace(err.Error(), e.Error(), e.Message, 1)
	marked.Unsure = true
	return &marked
}

// DoubtIf is Doubt of what follows an attempt that was unsure, and err itself otherwise.
func DoubtIf(unsure bool, err error) error {
	if unsure {
		return Doubt(err)
	}
	return err
}

// Doubtful reports whether the [*Error] in err's chain is Unsure.
func Doubtful(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Unsure
}

// Error implements error.
func (e *Error) Error() string {
	if e.RV != 0 {
		return fmt.Sprintf("%s: %s (CKR 0x%X)", e.Code, e.Message, e.RV)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf makes an [*Error].
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the [*Error] in err's chain, [Internal] if there
// is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}
