package operator

import (
	"errors"
	"log/slog"
	"net/http"

	"cmkd/daemon/journal"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// failure is an error that an operator is told.
type failure struct {
	status int
	api    *kmsapi.Error // as it is recorded; its message is the answer
	cause  error         // for the log, nil if the message says all
}

// Error implements error.
func (f *failure) Error() string { return f.api.Message }

// Unwrap lets the record say what the answer says.
func (f *failure) Unwrap() error { return f.api }

// invalid is a failure of who asks.
func invalid(status int, text string) error {
	return &failure{status, kmsapi.Errorf(kmsapi.CodeValidationException, "%s", text), nil}
}

// failed is a failure of the daemon, whose cause is logged. If that is the database, which does not answer or
// cannot be written, the caller is told so, and may try again.
func failed(text string, cause error) error {
	switch {
	case errors.Is(cause, store.ErrStale):
		return Unavailable(text+": the database does not answer", cause)
	case errors.Is(cause, store.ErrUnwritable):
		return Unavailable(text+": the database cannot be written", cause)
	}
	return &failure{http.StatusInternalServerError, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%s", text), cause}
}

// Forbidden is the refusal of a caller, with the reason.
func Forbidden(text string) error {
	return &failure{http.StatusForbidden, kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", text), nil}
}

// Unavailable is the refusal of a caller who may try again, with the reason, and for the
// log its cause.
func Unavailable(text string, cause error) error {
	return &failure{http.StatusServiceUnavailable, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%s", text), cause}
}

// refuse answers a call of the endpoint that failed.
func (s *Service) refuse(w http.ResponseWriter, r *http.Request, row *Row, err error) {
	f, ok := errors.AsType[*failure](err)
	switch {
	case ok:
	case errors.Is(err, journal.ErrNoTrail):
		f = &failure{http.StatusInternalServerError, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%v", err), nil}
	default:
		f = &failure{http.StatusBadRequest, kmsapi.Errorf(kmsapi.CodeValidationException, "%s", apiText(err)), nil}
	}
	if f.cause != nil {
		s.Log.LogAttrs(r.Context(), slog.LevelError, "a call of an operator failed", slog.String("operation", row.Name), slog.Any("error", f.cause))
	}
	http.Error(w, f.Error(), f.status)
}

// apiText is the text of an error, without the code of an error of the API.
func apiText(err error) string {
	if e, ok := errors.AsType[*kmsapi.Error](err); ok && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
