package token

import (
	"context"
	"errors"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
)

// codes says what the caller can do about a return value (PKCS#11 2.40 Base,
// section 5.1). What is not here is [backends.Internal]: the same call would
// fail again. CKR_GENERAL_ERROR means an unrecoverable error of the library;
// where it may mean a bad tag instead, the caller tells the two apart.
var codes = map[uint]backends.Code{
	p11.CKR_GENERAL_ERROR:                 backends.Lost,
	p11.CKR_DEVICE_ERROR:                  backends.Lost,
	p11.CKR_DEVICE_REMOVED:                backends.Lost,
	p11.CKR_SLOT_ID_INVALID:               backends.Lost,
	p11.CKR_TOKEN_NOT_PRESENT:             backends.Lost,
	p11.CKR_TOKEN_NOT_RECOGNIZED:          backends.Lost,
	p11.CKR_SESSION_CLOSED:                backends.Lost,
	p11.CKR_SESSION_HANDLE_INVALID:        backends.Lost,
	p11.CKR_OBJECT_HANDLE_INVALID:         backends.Lost,
	p11.CKR_KEY_HANDLE_INVALID:            backends.Lost,
	p11.CKR_WRAPPING_KEY_HANDLE_INVALID:   backends.Lost,
	p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID: backends.Lost,
	p11.CKR_OPERATION_ACTIVE:              backends.Lost,
	p11.CKR_OPERATION_NOT_INITIALIZED:     backends.Lost,
	p11.CKR_USER_NOT_LOGGED_IN:            backends.Lost,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED:      backends.Lost,

	p11.CKR_PIN_INCORRECT: backends.LoginFailed,
	p11.CKR_PIN_INVALID:   backends.LoginFailed,
	p11.CKR_PIN_LEN_RANGE: backends.LoginFailed,
	p11.CKR_PIN_EXPIRED:   backends.LoginFailed,
	p11.CKR_PIN_LOCKED:    backends.LoginFailed,
	// Of C_Login, after which no try is used up; see uncounted.
	p11.CKR_USER_PIN_NOT_INITIALIZED: backends.Lost,

	// Of a call that makes an object that stays, CKR_DEVICE_MEMORY is
	// [backends.TokenFull]: see refusal.
	p11.CKR_HOST_MEMORY:   backends.Busy,
	p11.CKR_DEVICE_MEMORY: backends.Busy,
	p11.CKR_SESSION_COUNT: backends.Busy,

	p11.CKR_TOKEN_WRITE_PROTECTED: backends.TokenReadOnly,
	p11.CKR_SESSION_READ_ONLY:     backends.TokenReadOnly,

	p11.CKR_MECHANISM_INVALID:       backends.Unsupported,
	p11.CKR_MECHANISM_PARAM_INVALID: backends.Unsupported,
	p11.CKR_FUNCTION_NOT_SUPPORTED:  backends.Unsupported,
	p11.CKR_CURVE_NOT_SUPPORTED:     backends.Unsupported,
	p11.CKR_KEY_SIZE_RANGE:          backends.Unsupported,

	p11.CKR_ENCRYPTED_DATA_INVALID:   backends.InvalidCiphertext,
	p11.CKR_ENCRYPTED_DATA_LEN_RANGE: backends.InvalidCiphertext,
	ckrAEADDecryptFailed:             backends.InvalidCiphertext,
	p11.CKR_WRAPPED_KEY_INVALID:      backends.InvalidCiphertext,
	p11.CKR_WRAPPED_KEY_LEN_RANGE:    backends.InvalidCiphertext,
}

// ckrAEADDecryptFailed is CKR_AEAD_DECRYPT_FAILED of PKCS#11 3.0.
const ckrAEADDecryptFailed = 0x42

// Failed makes the error of a call that did not return CKR_OK.
func Failed(call string, rv uint) *backends.Error {
	code, known := codes[rv]
	if !known {
		code = backends.Internal
	}
	return &backends.Error{Code: code, Message: call + NameOf(rv), RV: rv}
}

// NameOf is the name of a return value behind a colon, as manuals of vendors list it,
// and nothing for one that has none.
func NameOf(rv uint) string {
	_, name, _ := strings.Cut(p11.Error(rv).Error(), ": CKR_")
	if name == "" {
		return ""
	}
	return ": CKR_" + name
}

// recoded is err with another code. Its text says return value and code once.
func recoded(code backends.Code, err error) *backends.Error {
	out := &backends.Error{Code: code, Message: err.Error()}
	if e, ok := errors.AsType[*backends.Error](err); ok {
		out.Message, out.RV, out.Unsure = strings.Replace(out.Message, e.Error(), e.Message, 1), e.RV, e.Unsure
	}
	return out
}

// RVText is the name of a return value with its number: manuals have one or the other.
func RVText(rv uint) string {
	if name := NameOf(rv); name != "" {
		return fmt.Sprintf("%s, 0x%X", name[2:], rv)
	}
	return fmt.Sprintf("CKR 0x%X", rv)
}

// failure is failed for the errors of miekg/pkcs11, and nil for nil.
func failure(call string, err error) error {
	if err == nil {
		return nil
	}
	if rv, ok := errors.AsType[p11.Error](err); ok {
		return Failed(call, uint(rv))
	}
	return backends.Errorf(backends.Lost, "%s: %v", call, err)
}

// RVOf returns the CK_RV of err, CKR_OK if there is none.
func RVOf(err error) uint {
	if e, ok := errors.AsType[*backends.Error](err); ok {
		return e.RV
	}
	return p11.CKR_OK
}

// StaleHandle reports whether err says that a handle names no object.
func StaleHandle(err error) bool {
	switch RVOf(err) {
	case p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID,
		p11.CKR_WRAPPING_KEY_HANDLE_INVALID, p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return true
	}
	return false
}

// Expired returns the error of a context that has ended. A call that has
// begun in C cannot be interrupted, so the check comes before each one.
func Expired(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return backends.Errorf(backends.Timeout, "the deadline passed before the token was called")
	default:
		return backends.Errorf(backends.Internal, "the call was cancelled before the token was called")
	}
}

// InvalidCiphertext is the answer to everything that does not decrypt.
func InvalidCiphertext() error {
	return &backends.Error{Code: backends.InvalidCiphertext, Message: "the ciphertext is not valid"}
}

// Unsupported says which mechanism the token lacks.
func Unsupported(mechanism string) error {
	return &backends.Error{Code: backends.Unsupported, Message: mechanism}
}
