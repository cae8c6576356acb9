package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/google/uuid"

	"cmkd/daemon/kms"
	"cmkd/socket"
	"cmkd/socket/kmsapi"
)

// endpoint is one for operators: JSON in, JSON out, over the same socket as the
// API, and recorded like it.
type endpoint struct {
	name string // eventName
	// anyone may use it; else root and the configuration's admins.
	anyone bool
	// readOnly: it changes nothing. What In says with a method readOnly counts
	// more.
	readOnly bool
	maxBody  int64 // bytes
}

// operator is a call of an endpoint.
type operator struct {
	*http.Request
	call   *kms.Call
	ids    *identities
	writer http.ResponseWriter
}

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

// failed is a failure of the daemon, whose cause is logged.
func failed(text string, cause error) error {
	return &failure{http.StatusInternalServerError, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%s", text), cause}
}

func errOperatorsOnly() error {
	return forbidden("only root and the configuration's admins may do this")
}

func forbidden(text string) error {
	return &failure{http.StatusForbidden, kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", text), nil}
}

// serveOperator serves an endpoint. do gets the body as In; what it changes, it
// changes with the call that it gets.
func serveOperator[In, Out any](d *Daemon, e endpoint, do func(*operator, *In) (*Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var out *Out
		err := d.operate(w, r, &e, func(o *operator) error {
			in := new(In)
			raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, e.maxBody))
			if err == nil && len(raw) > 0 {
				dec := json.NewDecoder(bytes.NewReader(raw))
				dec.DisallowUnknownFields()
				err = dec.Decode(in)
			}
			if err != nil {
				return invalid(http.StatusBadRequest, "the body is not what cmkctl sends: "+err.Error())
			}
			d.describe(o, &e, in)
			out, err = do(o, in)
			return err
		})
		if err != nil {
			d.refuseOperator(w, r, &e, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(out) // the client may be gone
	})
}

// describe names in the record what is asked for.
func (d *Daemon) describe(o *operator, e *endpoint, in any) {
	readOnly := e.readOnly
	if looks, ok := in.(interface{ readOnly() bool }); ok {
		readOnly = looks.readOnly()
	}
	parameters, _ := json.Marshal(in) // it came from JSON
	d.kms.Describe(o.call, readOnly, parameters)
}

// operate lets do answer a call of the endpoint, and sees to its record.
func (d *Daemon) operate(w http.ResponseWriter, r *http.Request, e *endpoint, do func(*operator) error) error {
	ids := d.identities.Load()
	caller, err := ids.caller(r.Context())
	unmapped := errors.Is(err, errUnmapped)
	if err != nil && !unmapped {
		return failed("the caller is not known", err)
	}
	id := uuid.NewString()
	w.Header().Set("X-Amzn-Requestid", id)
	var call *kms.Call
	err = d.kms.Operate(r.Context(), caller, &kmsapi.Request{Operation: e.name, UserAgent: r.UserAgent(), RequestID: id}, func(c *kms.Call) error {
		call = c
		switch {
		case unmapped:
			return forbidden(errUnmapped.Error())
		case !e.anyone && !caller.Admin:
			return errOperatorsOnly()
		}
		return do(&operator{r, c, ids, w})
	})
	if call != nil && call.Excess() {
		socket.Throttled(r.Context())
	}
	return err
}

// refuseOperator answers a call of the endpoint that failed.
func (d *Daemon) refuseOperator(w http.ResponseWriter, r *http.Request, e *endpoint, err error) {
	f, ok := errors.AsType[*failure](err)
	switch {
	case ok:
	case errors.Is(err, kms.ErrNoTrail):
		f = &failure{http.StatusInternalServerError, kmsapi.Errorf(kmsapi.CodeKMSInternalException, "%v", err), nil}
	default:
		f = &failure{http.StatusBadRequest, kmsapi.Errorf(kmsapi.CodeValidationException, "%s", apiText(err)), nil}
	}
	if f.cause != nil {
		d.log.LogAttrs(r.Context(), slog.LevelError, "a call of an operator failed", slog.String("operation", e.name), slog.Any("error", f.cause))
	}
	http.Error(w, f.Error(), f.status)
}

// polled serves what monitoring asks for all the time, to root and admins: only
// the refusals are recorded, and it answers also if nothing can be recorded.
func (d *Daemon) polled(name string, h http.Handler) http.Handler {
	e := &endpoint{name: name, readOnly: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if caller, err := d.identities.Load().caller(r.Context()); err == nil && caller.Admin {
			h.ServeHTTP(w, r)
			return
		}
		d.refuseOperator(w, r, e, d.operate(w, r, e, func(o *operator) error { return errOperatorsOnly() }))
	})
}

// handleOperators adds the endpoints for operators.
func (d *Daemon) handleOperators(mux *http.ServeMux, server *socket.Server) {
	mux.Handle("GET /status", d.polled("GetStatus", http.HandlerFunc(d.serveStatus)))
	mux.Handle("GET /metrics", d.polled("GetMetrics", d.serveMetrics(server)))
	mux.HandleFunc("GET /recipient", d.serveRecipient) // tells everybody the same, and is not recorded
	d.handlePolicies(mux)
	mux.Handle("POST /confirm-clock", serveOperator(d, endpoint{name: "ConfirmClock", maxBody: 1 << 12}, d.confirmClock))
	mux.Handle("POST /accept-state", serveOperator(d, endpoint{name: "AcceptState", maxBody: 1 << 12}, d.acceptState))
	mux.Handle("POST /audit/verify", serveOperator(d, endpoint{name: "VerifyAuditTrail", readOnly: true, maxBody: 1 << 12}, d.verifyTrail))
	mux.Handle("POST /audit/prune", serveOperator(d, endpoint{name: "PruneAuditTrail", maxBody: 1 << 12}, d.pruneTrail))
	mux.Handle("POST /reload", serveOperator(d, endpoint{name: "ReloadConfiguration", maxBody: 1 << 12}, d.reloadNow))
	mux.Handle("POST /recover", serveOperator(d, endpoint{name: "RecoverKeys", maxBody: 1 << 20}, d.recoverKeys))
}
