package main

import (
	"errors"
	"fmt"
	"net/http"
)

// The exit statuses of cmkctl, which docs/cmkctl.md and the help show. Scripts rely
// on them: a number keeps its meaning.
const (
	exitFailed      = 1 // the answer is no, or an error without a status of its own
	exitUsage       = 2 // the command line is wrong; nothing was asked
	exitRefused     = 3 // by a policy, or for want of a role
	exitNotFound    = 4 // key, alias, grant or key store
	exitUnavailable = 5 // the daemon or the token does not answer, or not in time
	exitInput       = 6 // a file or a value that cannot be used
	exitState       = 7 // what is there does not allow it: key state, name taken, quota
)

const exitHelp = `Exit status:
  0  done
  1  the answer is no (a signature that does not verify, a degraded daemon), or an error without a status of its own
  2  the command line is wrong; nothing was asked
  3  refused by a policy, or because the caller lacks a role
  4  not found: key, alias, grant or key store
  5  unavailable: the daemon or the token does not answer in time
  6  bad input: a file or a value that cannot be used
  7  conflict with the current state: the key's state, a name that is taken, a quota`

// exitError ends cmkctl with a status of its own, in silence if err is nil.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usagef is an error of the command line.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// inputf is an error of what a command was given to work on.
func inputf(format string, args ...any) error {
	return &exitError{exitInput, fmt.Errorf(format, args...)}
}

// withStatus gives err a status, unless it has one.
func withStatus(status int, err error) error {
	if _, ok := errors.AsType[*exitError](err); ok || err == nil {
		return err
	}
	return &exitError{status, err}
}

// statusOfCode has the exit status for each error code of the KMS API. Others are
// exitFailed.
var statusOfCode = map[string]int{
	"AccessDeniedException":  exitRefused,
	"NotAuthorizedException": exitRefused,

	"NotFoundException":                exitNotFound,
	"CustomKeyStoreNotFoundException":  exitNotFound,
	"CloudHsmClusterNotFoundException": exitNotFound,

	"CloudHsmClusterNotActiveException": exitUnavailable,
	"DependencyTimeoutException":        exitUnavailable,
	"InternalFailure":                   exitUnavailable,
	"KMSInternalException":              exitUnavailable,
	"KeyUnavailableException":           exitUnavailable,
	"ServiceUnavailableException":       exitUnavailable,
	"ThrottlingException":               exitUnavailable,

	"ExpiredImportTokenException":      exitInput,
	"IncorrectKeyException":            exitInput,
	"IncorrectKeyMaterialException":    exitInput,
	"IncorrectTrustAnchorException":    exitInput,
	"InvalidAliasNameException":        exitInput,
	"InvalidArnException":              exitInput,
	"InvalidCiphertextException":       exitInput,
	"InvalidGrantIdException":          exitInput,
	"InvalidGrantTokenException":       exitInput,
	"InvalidImportTokenException":      exitInput,
	"InvalidKeyUsageException":         exitInput,
	"InvalidMarkerException":           exitInput,
	"InvalidSignatureException":        exitInput, // a Region that is not served
	"MalformedPolicyDocumentException": exitInput,
	"SerializationException":           exitInput,
	"TagException":                     exitInput,
	"UnknownOperationException":        exitInput,
	"UnsupportedOperationException":    exitInput,
	"ValidationException":              exitInput,

	"AlreadyExistsException":              exitState,
	"CloudHsmClusterInUseException":       exitState,
	"ConflictException":                   exitState,
	"CustomKeyStoreHasCMKsException":      exitState,
	"CustomKeyStoreInvalidStateException": exitState,
	"CustomKeyStoreNameInUseException":    exitState,
	"DisabledException":                   exitState,
	"KMSInvalidStateException":            exitState,
	"LimitExceededException":              exitState,
}

// refused is what an endpoint of the daemon's own says instead of an answer.
func refused(httpStatus int, text string) error {
	status := exitFailed
	switch httpStatus {
	case http.StatusForbidden, http.StatusUnauthorized:
		status = exitRefused
	case http.StatusNotFound:
		status = exitNotFound
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		status = exitInput
	case http.StatusConflict:
		status = exitState
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable:
		status = exitUnavailable
	}
	return &exitError{status, errors.New(text)}
}
