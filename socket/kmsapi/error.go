package kmsapi

import (
	"fmt"
	"net/http"
)

// Codes that any operation may answer and that the model therefore does not list
// (https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html).
// The values are the names that AWS JSON 1.1 sends in __type.
const (
	CodeAccessDeniedException       = "AccessDeniedException"
	CodeIncompleteSignature         = "IncompleteSignatureException"
	CodeInternalFailure             = "InternalFailure"
	CodeInvalidSignatureException   = "InvalidSignatureException"
	CodeMissingAuthenticationToken  = "MissingAuthenticationTokenException"
	CodeNotAuthorizedException      = "NotAuthorizedException"
	CodeRequestEntityTooLarge       = "RequestEntityTooLargeException"
	CodeSerializationException      = "SerializationException"
	CodeThrottlingException         = "ThrottlingException"
	CodeUnknownOperationException   = "UnknownOperationException"
	CodeUnrecognizedClientException = "UnrecognizedClientException"
	CodeValidationException         = "ValidationException"
)

// Error is an error as a client sees it.
type Error struct {
	Code    string // one of the Code constants
	Message string // empty where AWS sends none
}

// Errorf makes an Error. The message reaches the client: it must hold no secret.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

// Status is the HTTP status that e travels with: 500 for the faults of the service, 400 for everything else.
// The model's 404, 409 and 412 belong to the query protocol; over AWS JSON the service sends 400.
// SDKs retry a 500, so no lasting condition may have one.
func (e *Error) Status() int {
	switch e.Code {
	case CodeInternalFailure:
		return http.StatusInternalServerError
	case CodeRequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	if isFault(e.Code) {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// AppendJSON appends e as a response body to b.
func (e *Error) AppendJSON(b []byte) []byte {
	b = appendText(append(b, `{"__type":`...), e.Code)
	if e.Message != "" {
		name := `,"message":`
		if e.Code == CodeAccessDeniedException { // AWS spells this one differently; SDKs read both
			name = `,"Message":`
		}
		b = appendText(append(b, name...), e.Message)
	}
	return append(b, '}')
}
