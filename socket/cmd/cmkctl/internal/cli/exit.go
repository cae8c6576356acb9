package cli

import (
	"errors"
	"fmt"
	"net/http"
)

// The exit statuses of cmkctl, which docs/cmkctl.md and the help show. Scripts rely
// on them: a number keeps its meaning.
const (
	ExitFailed      = 1 // the answer is no, or an error without a status of its own
	ExitUsage       = 2 // the command line is wrong; nothing was asked
	ExitRefused     = 3 // by a policy, or for want of a role
	ExitNotFound    = 4 // key, alias, grant or key store
	ExitUnavailable = 5 // the daemon or the token does not answer, or not in time
	ExitInput       = 6 // a file or a value that cannot be used
	ExitState       = 7 // what is there does not allow it: key state, name taken, quota, file changed meanwhile
)

const ExitHelp = `Exit status:
  0  done
  1  the answer is no (a signature that does not verify, a degraded daemon), or an error without a status of its own
  2  the command line is wrong; nothing was asked
  3  refused by a policy, or because the caller lacks a role
  4  not found: key, alias, grant or key store
  5  unavailable: the daemon or the token does not answer in time
  6  bad input: a file or a value that cannot be used
  7  conflict with the current state: the key's state, a name that is taken, a quota, a file that changed meanwhile

A command that a signal interrupts cleans up and then ends by that signal: 130 for Ctrl-C,
143 for SIGTERM, in the shell.`

// ExitError ends cmkctl with a status of its own, in silence if err is nil.
type ExitError struct {
	Status int
	Err    error
}

// Exit ends cmkctl with the status, and with err on standard error.
func Exit(status int, err error) *ExitError { return &ExitError{Status: status, Err: err} }

// Error implements error.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Usagef is an error of the command line.
func Usagef(format string, args ...any) error {
	return Exit(ExitUsage, fmt.Errorf(format, args...))
}

// Inputf is an error of what a command was given to work on.
func Inputf(format string, args ...any) error {
	return Exit(ExitInput, fmt.Errorf(format, args...))
}

// WithStatus gives err a status, unless it has one.
func WithStatus(status int, err error) error {
	if _, ok := errors.AsType[*ExitError](err); ok || err == nil {
		return err
	}
	return Exit(status, err)
}

// statusOfCode has the exit status for each error code of the KMS API. Others are
// exitFailed.
var statusOfCode = map[string]int{
	"AccessDeniedException":  ExitRefused,
	"NotAuthorizedException": ExitRefused,

	"NotFoundException":                ExitNotFound,
	"CustomKeyStoreNotFoundException":  ExitNotFound,
	"CloudHsmClusterNotFoundException": ExitNotFound,

	"CloudHsmClusterNotActiveException": ExitUnavailable,
	"DependencyTimeoutException":        ExitUnavailable,
	"InternalFailure":                   ExitUnavailable,
	"KMSInternalException":              ExitUnavailable,
	"KeyUnavailableException":           ExitUnavailable,
	"ServiceUnavailableException":       ExitUnavailable,
	"ThrottlingException":               ExitUnavailable,

	"ExpiredImportTokenException":      ExitInput,
	"IncorrectKeyException":            ExitInput,
	"IncorrectKeyMaterialException":    ExitInput,
	"IncorrectTrustAnchorException":    ExitInput,
	"InvalidAliasNameException":        ExitInput,
	"InvalidArnException":              ExitInput,
	"InvalidCiphertextException":       ExitInput,
	"InvalidGrantIdException":          ExitInput,
	"InvalidGrantTokenException":       ExitInput,
	"InvalidImportTokenException":      ExitInput,
	"InvalidKeyUsageException":         ExitInput,
	"InvalidMarkerException":           ExitInput,
	"InvalidSignatureException":        ExitInput, // a Region that is not served
	"MalformedPolicyDocumentException": ExitInput,
	"SerializationException":           ExitInput,
	"TagException":                     ExitInput,
	"UnknownOperationException":        ExitInput,
	"UnsupportedOperationException":    ExitInput,
	"ValidationException":              ExitInput,

	"AlreadyExistsException":              ExitState,
	"CloudHsmClusterInUseException":       ExitState,
	"ConflictException":                   ExitState,
	"CustomKeyStoreHasCMKsException":      ExitState,
	"CustomKeyStoreInvalidStateException": ExitState,
	"CustomKeyStoreNameInUseException":    ExitState,
	"DisabledException":                   ExitState,
	"KMSInvalidStateException":            ExitState,
	"LimitExceededException":              ExitState,
}

// Refused is what an endpoint of the daemon's own says instead of an answer.
func Refused(httpStatus int, text string) error {
	status := ExitFailed
	switch httpStatus {
	case http.StatusForbidden, http.StatusUnauthorized:
		status = ExitRefused
	case http.StatusNotFound:
		status = ExitNotFound
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		status = ExitInput
	case http.StatusConflict:
		status = ExitState
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable:
		status = ExitUnavailable
	}
	return Exit(status, errors.New(text))
}
