package socket

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
)

type connKey struct{}

// guard lets through to h what the limits allow.
func (s *Server) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		switch {
		case s.draining.Load():
			refusedDraining.write(w, true)
			return
		case c.was != admitted:
			refusedThrottled.write(w, true)
			return
		case r.ContentLength > s.cfg.MaxBodyBytes:
			refusedTooLarge.write(w, true)
			return
		case r.ContentLength < 0:
			// Of a body of known length net/http reads no more than that.
			r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBodyBytes)
		}
		if !s.accounts.begin(c.account) {
			refusedThrottled.write(w, false)
			return
		}
		defer s.accounts.end(c.account)
		defer s.recoverCall(w)
		h.ServeHTTP(w, r)
	})
}

// recoverCall answers a call that panicked. The value of the panic is logged
// only where it comes from the runtime: any other may hold what a caller sent.
func (s *Server) recoverCall(w http.ResponseWriter) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	s.cfg.Log.Error("a call panicked", "panic", what, "stack", string(debug.Stack()))
	refusedPanicked.write(w, true)
}
