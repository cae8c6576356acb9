package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"cmkd/socket/client"
	"cmkd/socket/sigv4"
)

// loopback is the only address that a bridge listens on.
const loopback = "127.0.0.1"

// maxBody is the longest body of a request, in bytes: that of the daemon.
const maxBody = 1 << 20

// bridge is a running bridge.
type bridge struct {
	endpoint string // its URL
	server   *http.Server
	ended    chan struct{} // closed when it serves no more
	err      error         // why, readable then
}

// startBridge serves HTTP on a loopback port, 0 for any, for clients that sign
// with cred, and forwards to the socket.
func startBridge(ctx context.Context, socket string, port uint16, cred credential) (*bridge, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listening for the bridge: %w", err)
	}
	b := &bridge{
		endpoint: "http://" + ln.Addr().String(),
		server: &http.Server{
			Handler:           newBridgeHandler(socket, cred),
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       30 * time.Second,
			WriteTimeout:      2 * time.Minute,
			IdleTimeout:       3 * time.Minute,
			BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
			ErrorLog:          log.New(io.Discard, "", 0),
		},
		ended: make(chan struct{}),
	}
	go func() {
		defer close(b.ended)
		b.err = b.server.Serve(ln)
	}()
	return b, nil
}

// wait returns when ctx ends, or with an error when the bridge breaks.
func (b *bridge) wait(ctx context.Context) error {
	select {
	case <-b.ended:
		return fmt.Errorf("the bridge broke: %w", b.err)
	case <-ctx.Done():
		return nil
	}
}

// stop ends the bridge. Calls under way get a second to end.
func (b *bridge) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		_ = b.server.Close() // nothing is left to do about it
	}
	<-b.ended
}

// bridgeHandler checks signatures and forwards.
type bridgeHandler struct {
	verifier sigv4.Verifier
	proxy    httputil.ReverseProxy
}

func newBridgeHandler(socket string, cred credential) *bridgeHandler {
	h := &bridgeHandler{verifier: sigv4.Verifier{
		Service: "kms",
		Secret: func(id string) (string, bool) {
			return cred.secret, id == cred.id
		},
	}}
	h.proxy = httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// The daemon reads the Region off the Authorization header.
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "localhost", "localhost"
		},
		Transport:  client.HTTPClient(socket).GetTransport(),
		BufferPool: &buffers{},
		ErrorLog:   log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			// The SDKs repeat a call after this status.
			refuse(w, http.StatusServiceUnavailable, "ServiceUnavailableException",
				fmt.Sprintf("cmkd does not answer on %s: %s", socket, rootCause(err)))
		},
	}
	return h
}

// buffers lends the proxy what it copies answers through, which it would make
// anew for each. It implements [httputil.BufferPool].
type buffers struct{ pool sync.Pool }

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 8<<10)
}

// Put implements [httputil.BufferPool]. What was in it may be secret.
func (b *buffers) Put(p []byte) {
	clear(p)
	b.pool.Put(&p)
}

// ServeHTTP implements http.Handler.
func (h *bridgeHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusBadRequest, "RequestEntityTooLargeException", "The request is too large.")
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, "SerializationException", "The body of the request cannot be read.")
		return
	}
	if _, err := h.verifier.Verify(r, body); err != nil {
		var refusal *sigv4.Error
		if !errors.As(err, &refusal) {
			refusal = &sigv4.Error{Code: "KMSInternalException", Message: "The signature cannot be checked."}
		}
		refuse(w, http.StatusBadRequest, refusal.Code, refusal.Message)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	h.proxy.ServeHTTP(w, r)
}

// refuse answers with an error of the AWS JSON 1.1 protocol.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", uuid.NewString())
	w.WriteHeader(status)
	// The client may be gone.
	_ = json.NewEncoder(w).Encode(struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}{code, message})
}

// rootCause is the innermost text of a network error: the address in it is the
// endpoint's, which is no address.
func rootCause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
