package journal

import (
	"context"
	"errors"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func AsError[E error](err error) (E, bool) { return errors.AsType[E](err) }

// ErrUnverified is the answer to calls that would have to trust the database.
// It is not a 5xx: SDKs would only repeat the call.
func ErrUnverified() *kmsapi.Error {
	return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException,
		"The database or the audit trail of the service does not verify. An operator has to look at it: cmkctl status.")
}

// APIError turns any error into one of the API. It is the only place where
// that happens.
func (s *Journal) APIError(c *Call, err error) *kmsapi.Error {
	if e, ok := AsError[*kmsapi.Error](err); ok {
		return e
	}
	if errors.Is(err, store.ErrUnverified) {
		return ErrUnverified()
	}
	if errors.Is(err, store.ErrStale) {
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The database of the service does not answer. Try again.")
	}
	if errors.Is(err, store.ErrUnwritable) {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The database of the service cannot be written. Try again.")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The call was canceled.")
	}
	e, ok := AsError[*backends.Error](err)
	if !ok {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "An internal error occurred.")
	}
	switch e.Code {
	case backends.InvalidCiphertext:
		return &kmsapi.Error{Code: kmsapi.CodeInvalidCiphertextException}
	case backends.InvalidRequest:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "%s", e.Message)
	case backends.InvalidMaterial:
		return kmsapi.Errorf(kmsapi.CodeInvalidCiphertextException, "%s", e.Message)
	case backends.UnfitMaterial:
		return kmsapi.Errorf(kmsapi.CodeIncorrectKeyMaterialException, "%s", e.Message)
	case backends.Unsupported:
		return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "%s", e.Message)
	case backends.KeyMissing, backends.KeyDuplicate, backends.KeyUnsafe, backends.LoginFailed, backends.Away:
		// A state that lasts: a 5xx would only make SDKs repeat the call.
		if c.ARN == "" {
			return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "The token is unavailable.")
		}
		return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s is unavailable.", c.ARN)
	case backends.TokenFull:
		return c.modelled(kmsapi.CodeLimitExceededException, "The token has no room for another key.")
	case backends.TokenReadOnly:
		return c.modelled(kmsapi.CodeUnsupportedOperationException, "The token is write-protected: no key can be made or destroyed in it.")
	case backends.Busy:
		return kmsapi.Errorf(kmsapi.CodeThrottlingException, "The token is busy. Try again.")
	case backends.Lost:
		return kmsapi.Errorf(kmsapi.CodeKeyUnavailableException, "The token that holds the key does not answer. Try again.")
	case backends.CutOff:
		return kmsapi.Errorf(kmsapi.CodeKeyUnavailableException, "%s", e.Message)
	case backends.Timeout:
		return kmsapi.Errorf(kmsapi.CodeDependencyTimeoutException, "The token did not answer in time. Try again.")
	default:
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "An internal error occurred.")
	}
}

// modelled is an error with the code if the operation has it, so that clients know
// it; else KMSInternalException.
func (c *Call) modelled(code, message string) *kmsapi.Error {
	if c.Op == nil || !slices.ContainsFunc(kmsapi.Operations, func(o kmsapi.Operation) bool {
		return o.Name == c.Op.Operation() && slices.Contains(o.Errors, code)
	}) {
		code = kmsapi.CodeKMSInternalException
	}
	return kmsapi.Errorf(code, "%s", message)
}

// backendTrouble reports whether operators should hear of the error: it says
// something about the token, not about the request.
func backendTrouble(err error) bool {
	switch backends.CodeOf(err) {
	case backends.KeyMissing, backends.KeyDuplicate, backends.KeyUnsafe, backends.TokenFull,
		backends.TokenReadOnly, backends.Busy, backends.LoginFailed, backends.Away, backends.Lost, backends.Timeout:
		return true
	default:
		return false
	}
}

func InvalidState(arn, what string) error {
	return kmsapi.Errorf(kmsapi.CodeKMSInvalidStateException, "%s is %s.", arn, what)
}
