package plugins

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"cmkd/backends"
	"cmkd/plugins/internal/control"
	"cmkd/plugins/internal/lanes"
	"cmkd/plugins/internal/stream"
	"cmkd/version"
)

// Serve is the main of a plugin process: it answers the daemon until that ends
// the connection, then closes the backend and returns. name stands in the log.
//
// It must be started by the daemon (see [Host]); a process that was not says
// so on standard error and exits with status 1, unless it is asked for its -version. Log records written with
// [slog.Default] reach the daemon's log.
func Serve(name string, open Open) {
	if len(os.Args) == 2 && os.Args[1] == "-version" {
		fmt.Println(version.Line(name))
		return
	}
	stream, ok := startedByHost()
	if !ok {
		fmt.Fprintf(os.Stderr, "%s is a plugin of cmkd. The daemon starts it: name it in the configuration of cmkd.\n", name)
		os.Exit(1)
	}
	// The daemon alone ends a plugin: a service manager or a terminal that
	// signals the whole group must not take the token away from calls that
	// the daemon is still answering.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	closeSealed()
	setName(os.Args[0])
	// The memory of a process that crashes in the vendor's library may hold
	// plaintext: it makes no core file.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: forbidding core files: %v\n", name, err)
	}
	// Nor may other processes of the daemon's user read it (ptrace(2)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintf(os.Stderr, "%s: closing the memory to other processes: %v\n", name, err)
	}
	log := newPluginLog(os.Stderr)
	slog.SetDefault(log)

	s := &server{open: open, stream: stream, log: log, stderr: os.Stderr}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         plugin.PluginSet{pluginName: &controlPlugin{server: s}},
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			s.grpc = grpc.NewServer(o...)
			return s.grpc
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	})
	s.close()
}

// setName names the process after its executable, as execve(2) does. One that was
// started from a descriptor is called after that.
func setName(path string) {
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(path)), 0o600) // only to look at
}

// startedByHost checks the handshake's cookie and takes the stream that the
// daemon left open.
func startedByHost() (*os.File, bool) {
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		return nil, false
	}
	if t, err := syscall.GetsockoptInt(streamFD, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil || t != syscall.SOCK_STREAM {
		return nil, false
	}
	// A child of the vendor's library must not keep the connection open.
	syscall.CloseOnExec(streamFD)
	return os.NewFile(streamFD, "daemon"), true
}

// server is the plugin's side of the control service.
type server struct {
	control.UnimplementedControlServer
	open   Open
	stream *os.File
	log    *slog.Logger
	stderr *os.File // the real one; go-plugin replaces the variable
	grpc   *grpc.Server

	mu    sync.Mutex // guards what follows, and is held while the backend opens
	asked bool       // Open was called
	// calls and ended are set once the backend is open; ended is closed when
	// the calls have ended and the backend is closed.
	calls atomic.Pointer[lanes.Lanes]
	ended chan struct{}
}

// Open implements the control service.
func (s *server) Open(ctx context.Context, in *control.OpenRequest) (*control.OpenAnswer, error) {
	var cfg Config
	err := stream.Decoding.Unmarshal(in.GetConfig(), &cfg)
	if err != nil {
		err = backends.Errorf(backends.Internal, "the configuration does not decode: %v", err)
	} else {
		err = s.openBackend(ctx, cfg.withDefaults())
	}
	if err != nil {
		w := stream.ToWire(err)
		return &control.OpenAnswer{Code: string(w.Code), Message: w.Message, Rv: uint64(w.RV)}, nil
	}
	return &control.OpenAnswer{}, nil
}

func (s *server) openBackend(ctx context.Context, cfg Config) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked {
		return backends.Errorf(backends.Internal, "a plugin opens one token once")
	}
	s.asked = true
	// Vendor libraries print. The handshake was the last that the daemon
	// wanted to read on standard output; from here on it is the log.
	if err := syscall.Dup3(int(s.stderr.Fd()), syscall.Stdout, 0); err != nil {
		return backends.Errorf(backends.Internal, "moving standard output away: %v", err)
	}
	os.Stdout, os.Stderr = s.stderr, s.stderr

	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in the open function", "panic", lanes.PanicText(r), "stack", string(debug.Stack()))
			err = backends.Errorf(backends.Internal, "opening the token panicked")
		}
	}()
	if err := cfg.enterSandbox(s.log); err != nil {
		return backends.Errorf(backends.Internal, "locking the process in: %v", err)
	}
	b, err := s.open(ctx, cfg)
	if err != nil {
		return err
	}
	l := lanes.New(b, s.stream, cfg.Workers, cfg.limits(), s.log)
	s.calls.Store(l)
	s.ended = make(chan struct{})
	go s.serveCalls(l, b)
	return nil
}

// serveCalls owns the backend: it serves its calls until the daemon ends the
// stream, closes it and lets [Serve] return.
func (s *server) serveCalls(l *lanes.Lanes, b backends.Backend) {
	defer close(s.ended)
	if err := l.Run(); err != nil {
		s.log.Warn("the stream of calls broke", "error", err)
	}
	if c, ok := b.(io.Closer); ok {
		if err := c.Close(); err != nil {
			s.log.Warn("closing the backend", "error", err)
		}
	}
	go s.grpc.Stop()
}

// Health implements the control service.
func (s *server) Health(context.Context, *control.HealthRequest) (*control.HealthAnswer, error) {
	out := &control.HealthAnswer{}
	if l := s.calls.Load(); l != nil {
		out.Overdue, out.OverdueId = l.Overdue(time.Now())
	}
	return out, nil
}

// close ends the calls, if any were served, and waits for that.
func (s *server) close() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended == nil {
		return
	}
	// Wakes the reader if the daemon has ended go-plugin's connection first.
	_ = syscall.Shutdown(streamFD, syscall.SHUT_RD)
	<-ended
}

// controlPlugin registers the control service with go-plugin.
type controlPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server // nil on the daemon's side
}

func (p *controlPlugin) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	control.RegisterControlServer(g, p.server)
	return nil
}

func (p *controlPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return control.NewControlClient(conn), nil
}
