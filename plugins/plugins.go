// Package plugins runs backends in processes of their own and carries the
// calls of package backends to them.
//
// The daemon's side is [Host]: it implements every interface of package
// backends for one plugin process, watches the process and replaces it when it
// is lost. A [Group] is the Hosts of several tokens that hold the same keys. The
// plugin's side is [Serve], the whole of a plugin's main. Between the two, hashicorp/go-plugin does the handshake, the life cycle and the log,
// and its gRPC connection carries Open and Health (package internal/control);
// the calls themselves go over one socket pair as batches of frames (package internal/stream),
// which the plugin serves in fair turns (package internal/lanes).
// What was measured to choose that is in docs/decisions/0002-plugin-stream.md.
package plugins

import (
	"context"
	"time"

	"github.com/hashicorp/go-plugin"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// handshake is what both sides must agree on before anything else. The cookie
// is not secret: it tells a person who starts a plugin by hand from the daemon.
// ProtocolVersion changes with the frame format and whenever a row of
// internal/stream/methods.go changes its meaning.
var handshake = plugin.HandshakeConfig{
	ProtocolVersion:  2,
	MagicCookieKey:   "CMKD_PLUGIN",
	MagicCookieValue: "f5b1c0de-7a6e-4b7c-9d2a-5d6f6b6d6b63",
}

// pluginName is the name under which go-plugin dispenses the control service.
const pluginName = "backend"

// streamFD is the descriptor of the plugin's end of the socket pair: the first
// one after standard input, output and error.
const streamFD = 3

// Config is what a plugin is told to open: one token of one PKCS#11 module.
type Config struct {
	// Module is the path of the PKCS#11 module.
	Module string `cbor:"1,keyasint"`
	// TokenLabel and TokenSerial name the token, CKA-padding removed. At least
	// one is set; if both are, both must fit.
	TokenLabel  string `cbor:"2,keyasint,omitempty"`
	TokenSerial string `cbor:"3,keyasint,omitempty"`
	// PINFile is the path of the file that holds the user PIN.
	PINFile string `cbor:"4,keyasint"`
	// MaxSessions bounds the PKCS#11 sessions held at a time. 0: the backend's
	// own choice, within the token's limit.
	MaxSessions int `cbor:"5,keyasint,omitempty"`
	// Workers is how many quick calls run in the module at a time. 0: 8, which
	// hides the latency of an HSM and keeps the cores busy with SoftHSM2.
	Workers int `cbor:"6,keyasint,omitempty"`
	// QuickTimeout and SlowTimeout bound a call in the module; a call that is
	// still running after that is stuck, and the process is replaced; a quick one may wait
	// for a key that is being made before its time begins. Slow are
	// the calls that create, destroy and list keys and generate key pairs; those
	// that create have less time, by the key's spec.
	// 0: 5 s and 2 minutes.
	QuickTimeout time.Duration `cbor:"7,keyasint,omitempty"`
	SlowTimeout  time.Duration `cbor:"8,keyasint,omitempty"`
	// Settings are for the backend to understand; unknown ones are an error
	// of its open function.
	Settings map[string]string `cbor:"9,keyasint,omitempty"`
	// LoginRecord is the path of a file in which the processes of one token
	// remember the PIN that it refused, so that it is tried once in all.
	LoginRecord string `cbor:"10,keyasint,omitempty"`
	// Sandbox is what the module may reach beside the token.
	Sandbox Sandbox `cbor:"11,keyasint,omitzero"`
}

// Sandbox widens the walls around a module. Without it, it can read the system's
// libraries, itself and other libraries in its folder, the PIN file and what
// the environment names; it can write what SoftHSM2's configuration names as the
// folder of its tokens, and has no sockets.
type Sandbox struct {
	// Off leaves the process as it is.
	Off bool `cbor:"1,keyasint,omitempty"`
	// Readable and Writable are absolute paths of files, and of folders with all
	// that is in them. What does not exist when the process starts is left out.
	Readable []string `cbor:"2,keyasint,omitempty"`
	Writable []string `cbor:"3,keyasint,omitempty"`
	// Network allows sockets, Unix sockets included.
	Network bool `cbor:"4,keyasint,omitempty"`
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = 8
	}
	if c.QuickTimeout <= 0 {
		c.QuickTimeout = 5 * time.Second
	}
	if c.SlowTimeout <= 0 {
		c.SlowTimeout = 2 * time.Minute
	}
	return c
}

func (c Config) limits() stream.Limits {
	return stream.Limits{Quick: c.QuickTimeout, Slow: c.SlowTimeout}
}

// Open opens the backend of a plugin. It is called once in the life of a
// process, after standard output was moved away from what vendor libraries
// print. A [*backends.Error] reaches the daemon as it is. If the backend
// implements [io.Closer] it is closed before the process ends in good order.
type Open func(ctx context.Context, cfg Config) (backends.Backend, error)
