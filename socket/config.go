package socket

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"
)

// Config says where the server listens and how much it takes on. The zero
// value of every field but Path means its default.
type Config struct {
	// Path is the absolute path of the socket, at most 107 bytes (unix(7),
	// sun_path). Its folder must exist. Next to it the server keeps
	// Path+".lock". Path may be empty under systemd socket activation, where
	// Path, Mode and Group are the business of the socket unit.
	Path string
	// Mode is the file mode of the socket, default 0660. Who may connect
	// needs the write bit (unix(7)).
	Mode os.FileMode
	// Group is the name or number of the group that the socket belongs to,
	// default the process's own.
	Group string

	// ReadHeaderTimeout is the time a client has for the header of a request,
	// and a new connection for its first byte; default 10 s.
	ReadHeaderTimeout time.Duration
	// ReadTimeout is the time for a whole request, default 30 s.
	ReadTimeout time.Duration
	// WriteTimeout is the time from the end of a request's header to the last
	// byte of its answer, so it bounds the call itself too; default 2 min.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection may rest between requests, default
	// 3 min: longer than the 90 s after which the SDKs give up an idle
	// connection, so that it is the client who closes it.
	IdleTimeout time.Duration
	// DrainTimeout is how long calls in flight may take to end once the server
	// is told to stop, default 10 s.
	DrainTimeout time.Duration

	// MaxHeaderBytes bounds the header of a request, default 16 KiB (net/http
	// adds 4 KiB of slop).
	MaxHeaderBytes int
	// MaxBodyBytes bounds the body of a request, default 1 MiB. The largest
	// request of the KMS API, one with an attestation document of 256 KiB,
	// takes 350 KiB.
	MaxBodyBytes int64

	Limits Limits

	// Privileged reports whether a peer is one of those who look after the daemon,
	// and may use [Limits.Reserve], asked once for each connection; default uid 0 and the process's own.
	Privileged func(Peer) bool

	// Barred reports whether a peer's connections are closed at once; nil: no peer's are.
	Barred func(Peer) bool

	// Refused is told of each request that the server answers itself, past a
	// limit, say, with the request ID and the error that the answer has; nil:
	// nobody is. The answer leaves when it has returned. If it could not record
	// the request it returns false, and that is the answer.
	Refused func(r *http.Request, requestID, code, message string) bool

	// Log receives what goes wrong below the level of a call; default
	// [slog.Default].
	Log *slog.Logger
}

// Limits bound what is in use at one time. A caller past one of them is
// answered with ThrottlingException, which the SDKs retry with backoff; the
// connections of a uid that gets more than 100 such answers a second, after a
// burst of 200, are read more and more slowly. The limits per uid keep one user
// from using up the totals, so each should stay below its total. What keeps one
// user's calls from slowing down those of others is not limits: requests take
// turns by uid, docs/decisions/0009-fair-scheduling.md.
type Limits struct {
	// Connections open at one time, default 4,096. Beyond it, the connection
	// that has been idle for the longest time, but a second at least, is closed for
	// a new one: of the uid with the most connections. If there is none, 128 more
	// are accepted only to be answered with ThrottlingException, and what comes
	// after those is closed at once. What RLIMIT_NOFILE has no room for is cut off
	// when the server begins.
	Connections int
	// ConnectionsPerUID, default half of Connections. Beyond it, one of the uid's
	// own idle connections gives way.
	ConnectionsPerUID int
	// Calls in flight, default 1,024.
	Calls int
	// CallsPerUID, default half of Calls.
	CallsPerUID int
	// Reserve is how many connections and how many calls more than Connections
	// and Calls there may be of privileged peers, default 64. Beyond it, any idle
	// connection gives way to theirs.
	Reserve int
	// RatePerUID is the number of calls a second that a uid may start, default
	// 0, which means any number.
	RatePerUID float64
	// BurstPerUID is how many calls a uid may start at once after a rest,
	// default one second's worth of RatePerUID.
	BurstPerUID int
}

// maxSocketPath is sizeof(sun_path) less its terminating NUL (unix(7)).
const maxSocketPath = 107

func (c Config) withDefaults() Config {
	setDefault(&c.Mode, 0o660)
	setDefault(&c.ReadHeaderTimeout, 10*time.Second)
	setDefault(&c.ReadTimeout, 30*time.Second)
	setDefault(&c.WriteTimeout, 2*time.Minute)
	setDefault(&c.IdleTimeout, 3*time.Minute)
	setDefault(&c.DrainTimeout, 10*time.Second)
	setDefault(&c.MaxHeaderBytes, 16<<10)
	setDefault(&c.MaxBodyBytes, 1<<20)
	l := &c.Limits
	setDefault(&l.Connections, 4096)
	setDefault(&l.ConnectionsPerUID, max(1, l.Connections/2))
	setDefault(&l.Calls, 1024)
	setDefault(&l.CallsPerUID, max(1, l.Calls/2))
	setDefault(&l.Reserve, 64)
	setDefault(&l.BurstPerUID, max(1, int(l.RatePerUID)))
	if c.Privileged == nil {
		self := uint32(os.Geteuid())
		c.Privileged = func(p Peer) bool { return p.UID == 0 || p.UID == self }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports every fault of a configuration that has its defaults.
func (c Config) validate() error {
	var errs []error
	if c.Mode&^0o777 != 0 {
		errs = append(errs, fmt.Errorf("mode %#o has more than permission bits", uint32(c.Mode)))
	}
	if c.Mode&0o200 == 0 {
		errs = append(errs, fmt.Errorf("mode %#o: not even the owner could connect", uint32(c.Mode)))
	}
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"read header timeout", float64(c.ReadHeaderTimeout)},
		{"read timeout", float64(c.ReadTimeout)},
		{"write timeout", float64(c.WriteTimeout)},
		{"idle timeout", float64(c.IdleTimeout)},
		{"drain timeout", float64(c.DrainTimeout)},
		{"header limit", float64(c.MaxHeaderBytes)},
		{"body limit", float64(c.MaxBodyBytes)},
		{"limit on connections", float64(c.Limits.Connections)},
		{"limit on connections per uid", float64(c.Limits.ConnectionsPerUID)},
		{"limit on calls", float64(c.Limits.Calls)},
		{"limit on calls per uid", float64(c.Limits.CallsPerUID)},
		{"reserve", float64(c.Limits.Reserve)},
		{"rate per uid", c.Limits.RatePerUID},
		{"burst per uid", float64(c.Limits.BurstPerUID)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("negative %s", f.name))
		}
	}
	return errors.Join(errs...)
}
