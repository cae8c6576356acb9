package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cmkd/socket/client"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/internal/forget"
	"cmkd/socket/sigv4"
)

// loopback is the only address that a bridge listens on.
const loopback = "127.0.0.1"

// Server is a running bridge.
type Server struct {
	Endpoint string // its URL
	server   *http.Server
	upstream *upstream
	ended    chan struct{} // closed when it serves no more
	err      error         // why, readable then
}

// Start serves HTTP on a loopback port, 0 for any, for clients that sign
// with one of the credentials, and forwards to the socket. secured is nil for no TLS.
func Start(ctx context.Context, socket string, port uint16, secured *bridgeTLS, credentials ...Credential) (*Server, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listening for the bridge: %w", err)
	}
	endpoint := "http://" + ln.Addr().String()
	h := newBridgeHandler(socket, credentials)
	if secured == nil {
		h.hosts = HostsAt(ln.Addr(), "80", loopback, "localhost")
	} else {
		h.hosts = HostsAt(ln.Addr(), "443", append([]string{loopback, "localhost"}, secured.names...)...)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		endpoint = "https://" + net.JoinHostPort(secured.host, port)
		ln = tls.NewListener(ln, secured.config())
	}
	b := &Server{
		Endpoint: endpoint,
		upstream: h.upstream,
		server: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       30 * time.Second,
			WriteTimeout:      2 * time.Minute,
			IdleTimeout:       3 * time.Minute,
			MaxHeaderBytes:    32 << 10,
			BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
			ConnContext:       withConnection,
			ConnState:         connectionState,
			ErrorLog:          log.New(io.Discard, "", 0),
		},
		ended: make(chan struct{}),
	}
	go func() {
		defer close(b.ended)
		b.err = b.server.Serve(newConnections(ln))
	}()
	return b, nil
}

// Wait returns when ctx ends, or with an error when the bridge breaks.
func (b *Server) Wait(ctx context.Context) error {
	select {
	case <-b.ended:
		return fmt.Errorf("the bridge broke: %w", b.err)
	case <-ctx.Done():
		return nil
	}
}

// Stop ends the bridge. Calls under way get a second to end.
func (b *Server) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		_ = b.server.Close() // nothing is left to do about it
	}
	<-b.ended
	b.upstream.close()
}

// bridgeHandler checks signatures and forwards.
type bridgeHandler struct {
	hosts    []string // that a request may name
	verifier sigv4.Verifier
	replays  *sigv4.Replays
	large    largeBodies
	socket   string
	upstream *upstream
}

func newBridgeHandler(socket string, credentials []Credential) *bridgeHandler {
	secrets := map[string]string{}
	for _, c := range credentials {
		secrets[c.ID] = c.Secret
	}
	h := &bridgeHandler{
		verifier: sigv4.Verifier{
			Service: "kms",
			Secret:  func(id string) (string, bool) { s, ok := secrets[id]; return s, ok },
		},
		replays: sigv4.NewReplays(),
		large:   newLargeBodies(),
		socket:  client.Path(socket),
	}
	dial := client.HTTPClient(socket).GetTransport().DialContext
	h.upstream = &upstream{connect: func(ctx context.Context) (net.Conn, error) { return dial(ctx, "unix", "") }}
	return h
}

// HostsAt are what the names of a loopback address are in a Host header. Pages of
// the web reach it by names of their own, which point to it
// (DNS rebinding), and have no business here.
func HostsAt(addr net.Addr, defaultPort string, names ...string) []string {
	_, port, _ := net.SplitHostPort(addr.String())
	var hosts []string
	for _, name := range names {
		hosts = append(hosts, net.JoinHostPort(name, port))
		if port == defaultPort {
			hosts = append(hosts, strings.TrimSuffix(net.JoinHostPort(name, ""), ":"))
		}
	}
	return hosts
}

// ServeHTTP implements http.Handler.
func (h *bridgeHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn := connectionOf(r.Context())
	conn.serving.Store(true)
	defer conn.serving.Store(false)
	whole := false
	defer func() {
		if !whole || r.Close || w.Header().Get("Connection") == "close" {
			conn.buffers.End()
		}
	}()
	h.answer(conn.buffers.Writer(w), r, conn)
	whole = true
}

// answer forwards a request, or refuses it.
func (h *bridgeHandler) answer(w http.ResponseWriter, r *http.Request, conn *connection) {
	err := h.serve(w, r, conn)
	if err == nil {
		return
	}
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		refused = &refusal{status: http.StatusBadRequest, code: "KMSInternalException", message: "The signature cannot be checked."}
	}
	if conn.isFriend() {
		forget.Discard(r)
	} else {
		w.Header().Set("Connection", "close")
	}
	refused.write(w)
}

// serve checks a request and forwards it, or returns a [*refusal]. What the
// header alone tells is checked first, so that whoever has no credential makes
// the bridge read nothing.
func (h *bridgeHandler) serve(w http.ResponseWriter, r *http.Request, conn *connection) error {
	if err := h.checkHeader(r); err != nil {
		return err
	}
	claim, err := h.verifier.Header(r)
	if err != nil {
		return signatureRefusal(err)
	}
	leave, err := h.large.enter(r, conn.isFriend())
	if err != nil {
		return err
	}
	defer leave()
	body, err := readBody(w, r)
	defer func() { clear(body) }()
	if err != nil {
		return err
	}
	id, err := claim.Verify(body)
	if err == nil {
		// To a port all users look alike, so they count as one.
		err = h.replays.Check(id, 0, time.Now())
	}
	if err != nil {
		return signatureRefusal(err)
	}
	conn.welcome()
	return h.forward(w, r, body)
}

// forward gives a request to the daemon, and its answer to the client.
func (h *bridgeHandler) forward(w http.ResponseWriter, r *http.Request, body []byte) error {
	begun := false
	err := h.upstream.forward(r, body, func(resp *http.Response) error {
		begun = true
		return copyAnswer(w, resp)
	})
	switch {
	case err == nil:
		return nil
	case begun:
		panic(http.ErrAbortHandler) // the client must not take it for whole
	default:
		// The SDKs repeat a call after this status.
		return &refusal{
			status: http.StatusServiceUnavailable, code: "ServiceUnavailableException",
			message: fmt.Sprintf("cmkd does not answer on %s: %s", h.socket, cli.RootCause(err)),
		}
	}
}

// checkHeader refuses what the bridge would not forward as it was signed, and
// other servers' requests.
func (h *bridgeHandler) checkHeader(r *http.Request) error {
	known := false
	for _, host := range h.hosts {
		known = known || strings.EqualFold(r.Host, host)
	}
	if !known {
		return &refusal{
			status: http.StatusMisdirectedRequest, code: "ValidationException",
			message: "This is " + h.hosts[0] + ", and the request is for another Host.",
		}
	}
	// A proxy drops the headers that Connection names (RFC 9110, section
	// 7.6.1): Authorization, say, by which the daemon knows who calls.
	for _, list := range r.Header["Connection"] {
		for option := range strings.SplitSeq(list, ",") {
			switch strings.ToLower(strings.TrimSpace(option)) {
			case "", "close", "keep-alive":
			default:
				return &refusal{
					status: http.StatusBadRequest, code: "ValidationException",
					message: "The Connection header may say close or keep-alive, and nothing else.",
				}
			}
		}
	}
	return nil
}
