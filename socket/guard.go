package socket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"

	"cmkd/socket/internal/forget"
)

type connKey struct{}

// guard is h, within the limits, for net/http.
func (s *Server) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		c.idle.Store(false)
		if _, ok := s.accounts.acquire(c); !ok { // a request that came with the one before has none yet
			panic(http.ErrAbortHandler)
		}
		c.serving.Store(true)
		defer c.serving.Store(false)
		whole := false
		defer func() {
			if !whole || r.Close || s.draining.Load() || w.Header().Get("Connection") == "close" {
				c.buffers.End()
			}
		}()
		whole = s.limit(c, w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// net/http ends its context when it reads the end of the stream, but a client that has only
			// closed its half still waits for the answer; and it reads no further than a request that
			// came with this one.
			ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
			c.calling(cancel)
			defer cancel()
			defer c.calling(nil)
			h.ServeHTTP(c.buffers.Writer(w), r.WithContext(ctx))
		}))
	})
}

// limit lets through to h what the limits allow, and answers the rest. whole is false if the
// connection should end with this request.
func (s *Server) limit(c *conn, w http.ResponseWriter, r *http.Request, h http.Handler) (whole bool) {
	switch {
	case s.draining.Load():
		s.refuse(w, r, refusedDraining, true)
		return false
	case c.was != admitted:
		c.throttle()
		s.refuse(w, r, refusedThrottled, true)
		return false
	case r.ContentLength > s.cfg.MaxBodyBytes:
		s.refuse(w, r, refusedTooLarge, true)
		return false
	case r.ContentLength < 0:
		// Of a body of known length net/http reads no more than that.
		// net/http looks at the body in its own request to tell whether the connection can go on.
		r = r.WithContext(r.Context())
		r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBodyBytes)
	}
	if !s.accounts.begin(c) {
		c.throttle()
		s.refuse(w, r, refusedThrottled, false)
		forget.Discard(r)
		return true
	}
	defer s.accounts.end(c.account)
	defer s.recoverCall(w, r)
	h.ServeHTTP(w, r)
	return true
}

// recoverCall answers a call that panicked. The value of the panic is logged
// only where it comes from the runtime: any other may hold what a caller sent.
func (s *Server) recoverCall(w http.ResponseWriter, r *http.Request) {
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
	s.refuse(w, r, refusedPanicked, true)
}
