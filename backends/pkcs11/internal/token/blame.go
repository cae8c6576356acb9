package token

import (
	"errors"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// What a caller sends must not end the process that serves all the others. But
// tokens answer bad input with CKR_GENERAL_ERROR, CKR_DEVICE_ERROR or
// CKR_FUNCTION_FAILED, with which they also report that they are broken. So
// whatever opens, unwraps, derives from or verifies something of a caller's
// finds out whose fault it is.

// maybeInput reports whether some token answers so to bad input: by errors of
// every kind, some of which also mean trouble of its own.
func maybeInput(err error) bool {
	if _, ok := errors.AsType[beforeInputError](err); ok {
		return false
	}
	switch rv := RVOf(err); rv {
	case p11.CKR_OK:
		return false
	case p11.CKR_DEVICE_ERROR:
		return true
	default:
		code := backends.CodeOf(err)
		return maybeBadTag(rv) || code != backends.Lost && code != backends.Timeout && code != backends.Busy && code != backends.TokenReadOnly
	}
}

// Little is how much every token takes that passed the probe, in bytes.
const Little = 64

// Usual reports whether every token takes so many bytes: the probe has tried some between.
func Usual(n int) bool { return 16 <= n && n <= Little }

// Limited makes a call with good input or output of a length that a caller chooses: there are
// tokens that answer CKR_GENERAL_ERROR or CKR_DEVICE_ERROR to more than they take, or to less.
// If it fails so, and the length is not a usual one, less does the same with a length that every token takes: of
// a token that does that, the call is made again, and if it fails again the token does not do
// what is said.
func Limited(usual bool, call, less func() error, said func() string) error {
	err := call()
	if code := backends.CodeOf(err); err == nil || usual || !maybeInput(err) || code != backends.Lost && code != backends.Internal {
		return err
	}
	if kerr := less(); kerr != nil {
		if code := backends.CodeOf(kerr); code == backends.Timeout || code == backends.Busy {
			return kerr
		}
		return err
	}
	if err = call(); err != nil && maybeInput(err) {
		return &backends.Error{Code: backends.Unsupported, Message: "the token does not " + said() + NameOf(RVOf(err)), RV: RVOf(err)}
	}
	return err
}

// beforeInputError is the error of an Init half: the token has not seen the input yet.
type beforeInputError struct{ error }

// Unwrap lets the code and CK_RV be found.
func (e beforeInputError) Unwrap() error { return e.error }

// CheckInput is check for a call that takes input of a caller's.
func (s *Session) CheckInput(call string, r cryptoki.Result) error {
	err := s.Check(call, r.RV)
	if err != nil && r.Init {
		return beforeInputError{err}
	}
	return err
}

// Blame makes a call with input of a caller's. If it fails in a way that may be
// the input's fault, known does the same with input that is known to be good: a
// token that fails that too is [backends.Lost]; of one that does not, the call is
// made again, and if it fails again its error is bad.
func Blame(call, known func() error, bad error) error {
	err := call()
	if err == nil || !maybeInput(err) {
		return err
	}
	if kerr := known(); kerr != nil {
		if code := backends.CodeOf(kerr); code == backends.Timeout || code == backends.Busy {
			return kerr
		}
		return &backends.Error{Code: backends.Lost, Message: "the token fails with good input, too" + NameOf(RVOf(err)), RV: RVOf(err)}
	}
	if err = call(); err != nil && maybeInput(err) {
		return bad
	}
	return err
}

// maybeBadTag reports whether some tokens answer so to a wrong tag (SoftHSM2:
// CKR_GENERAL_ERROR) and others to trouble of their own.
func maybeBadTag(rv uint) bool {
	switch rv {
	case p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_DATA_INVALID,
		p11.CKR_DATA_LEN_RANGE, p11.CKR_ARGUMENTS_BAD, p11.CKR_SIGNATURE_INVALID:
		return true
	}
	return false
}
