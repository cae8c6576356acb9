package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sync/singleflight"

	"cmkd/backends"
	"cmkd/plugins/internal/control"
	"cmkd/plugins/internal/stream"
)

// exitTimeout is how long a process may take to close its backend after its
// last call, to open it when it is not wanted any more, and to go away after
// SIGKILL.
const exitTimeout = 2 * time.Second

// process is one process of a plugin with its backend open. It is used up
// when broken is closed, and ends with kill or stop.
type process struct {
	spec    *Spec
	runner  *processRunner
	client  *plugin.Client
	control control.ControlClient
	link    *stream.Link
	started time.Time

	breaking sync.Once
	broken   chan struct{} // closed when the process must be replaced
	reason   error         // why; set before broken is closed

	serving  atomic.Bool // the backend is open
	answered atomic.Bool // it has answered a call well
	starved  starvation
	proofs   singleflight.Group // asks the token whether it is there
	worn     chan string        // receives why another process would be better

	watching sync.WaitGroup // the goroutines of the process
	unwatch  context.CancelFunc
}

// launch starts a process and opens its backend. Every failure is a
// [backends.Error], and leaves no process.
func launch(ctx context.Context, s *spawner, spec *Spec, log hclog.Logger) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, spec.StartTimeout)
	defer cancel()
	p := &process{spec: spec, started: time.Now(), broken: make(chan struct{}), worn: make(chan string, 1)}
	if err := p.start(ctx, s, log); err != nil {
		p.kill()
		return nil, backends.Errorf(backends.Lost, "starting plugin %s: %s", spec.Name, stream.Told(err.Error()))
	}
	p.watch()
	opening, done := finishing(ctx)
	defer done()
	if err := p.open(opening); err != nil {
		p.kill()
		return nil, err
	}
	if err := p.introduce(opening); err != nil {
		p.stop(opening) // it is logged in
		return nil, err
	}
	p.serving.Store(true)
	return p, nil
}

// finishing is ctx, which lasts exitTimeout longer if it is canceled. A process
// that is killed while it logs in may take the token with it: SoftHSM2 empties
// the file that makes a folder a token, and then writes it.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, _ := ctx.Deadline() // launch has set one
	longer, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(exitTimeout):
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel() }
}

// start starts the process and does go-plugin's handshake.
func (p *process) start(ctx context.Context, s *spawner, log hclog.Logger) error {
	ours, theirs, err := streamPair()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	p.link = stream.NewLink(ours)

	stopKill := func() bool { return true }
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          plugin.PluginSet{pluginName: &controlPlugin{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			r, err := newProcessRunner(s, p.spec, cmd.Env, dir, theirs)
			if err != nil {
				return nil, err
			}
			p.runner = r
			// go-plugin waits for the handshake and knows no context.
			stopKill = context.AfterFunc(ctx, func() { _ = r.Kill(context.Background()) })
			return r, nil
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.spec.sockets()},
		SkipHostEnv:      true,
		AutoMTLS:         true,
		GRPCDialOptions:  dialOptions(),
		StartTimeout:     p.spec.StartTimeout,
		Logger:           log,
	})
	defer func() { stopKill() }()
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	service, err := protocol.Dispense(pluginName)
	if err != nil {
		return err
	}
	c, ok := service.(control.ControlClient)
	if !ok {
		return fmt.Errorf("go-plugin dispensed a %T", service)
	}
	p.control = c
	return nil
}

// streamPair makes the socket pair for the calls. The plugin's end blocks, as
// its workers want it.
func streamPair() (*net.UnixConn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for the plugin: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "plugin")
	file := os.NewFile(uintptr(fds[0]), "calls")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("socket pair for the plugin: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// open opens the backend.
func (p *process) open(ctx context.Context) error {
	var config bytes.Buffer
	if err := stream.Encoding.MarshalToBuffer(p.spec.Config, &config); err != nil {
		return backends.Errorf(backends.Internal, "encoding the configuration of plugin %s: %v", p.spec.Name, err)
	}
	answer, err := p.control.Open(ctx, &control.OpenRequest{Config: config.Bytes()})
	if err != nil {
		select {
		case <-p.broken:
			err = p.reason
		default:
		}
		return backends.Errorf(backends.Lost, "opening the token of plugin %s: %s", p.spec.Name, stream.Told(err.Error()))
	}
	if answer.GetCode() != "" {
		w := stream.WireError{Code: backends.Code(stream.Told(answer.GetCode())), Message: answer.GetMessage(), RV: uint(answer.GetRv())}
		return w.Err()
	}
	return nil
}

// introduce has [Spec.Accept] and [Spec.Compare] look at what the process announces, and
// at the keys that it shows.
func (p *process) introduce(ctx context.Context) error {
	if p.spec.Accept == nil && p.spec.Compare == nil {
		return nil
	}
	calls := Calls{p}
	out, err := calls.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return backends.Errorf(backends.Lost, "asking plugin %s what it serves: %s", p.spec.Name, stream.Told(err.Error()))
	}
	if p.spec.Accept != nil {
		if err := p.spec.Accept(out); err != nil {
			return backends.Errorf(backends.Lost, "plugin %s is refused: %s", p.spec.Name, stream.Told(err.Error()))
		}
	}
	if p.spec.Compare != nil {
		if err := p.spec.Compare(ctx, out, calls); err != nil {
			return &refusedError{stream.Told(err.Error())}
		}
	}
	return nil
}

// refusedError is the error of a process whose token [Spec.Compare] has refused.
type refusedError struct{ text string }

// Error implements error.
func (r *refusedError) Error() string { return r.text }

// Unwrap has it known as [backends.Lost].
func (r *refusedError) Unwrap() error { return backends.Errorf(backends.Lost, "%s", r.text) }

// watch starts the two goroutines of the process: one hands out the answers
// until the process ends, the other asks for its health.
func (p *process) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	p.unwatch = cancel
	p.watching.Go(func() {
		err := p.link.Run()
		p.condemn(endedError{err})
	})
	p.watching.Go(func() { p.heartbeat(ctx) })
}

// wear tells the supervisor that another process would be better.
func (p *process) wear(why string) {
	select {
	case p.worn <- why:
	default: // it knows
	}
}

// spentProcess is the reason of a process that has answered [backends.Spent].
const spentProcess = "has used up what the token has room for in one process"

// starvedTime is how long a process may say that the token is busy, without one
// call that it answers well, until another one is tried: one that has used up what
// memory its library has would say so for ever.
const starvedTime = 10 * time.Second

// starvation is since when a process has answered [backends.Busy] alone, in Unix
// nanoseconds; 0: it has not.
type starvation struct{ since atomic.Int64 }

func (s *starvation) end() {
	if s.since.Load() != 0 {
		s.since.Store(0)
	}
}

// starve notes that the process has answered [backends.Busy].
func (p *process) starve(now time.Time) {
	if p.starved.since.CompareAndSwap(0, now.UnixNano()) {
		return
	}
	if since := p.starved.since.Load(); since != 0 && now.Sub(time.Unix(0, since)) > starvedTime &&
		p.starved.since.CompareAndSwap(since, now.UnixNano()) {
		p.wear("has answered that the token is busy for a while")
	}
}

// condemn tells the supervisor to replace the process; the first reason stands.
func (p *process) condemn(reason error) {
	p.breaking.Do(func() {
		p.reason = reason
		close(p.broken)
	})
}

// endedError is the reason of a process that ended before anybody condemned it.
type endedError struct{ error }

// Error implements error.
func (e endedError) Error() string {
	return "the process ended or broke the stream: " + e.error.Error()
}

// Unwrap lets the error of the stream be found.
func (e endedError) Unwrap() error { return e.error }

// crashed says of a process whose calls got errGone whether it ended without
// being condemned.
func (p *process) crashed() bool {
	if p.usable() {
		return true // it is about to be noticed
	}
	_, ended := errors.AsType[endedError](p.reason)
	return ended
}

// usable says whether calls may still be sent.
func (p *process) usable() bool {
	select {
	case <-p.broken:
		return false
	default:
		return true
	}
}

// call makes one call. The error is that of the backend, errRetired, errGone,
// errPast or that of ctx.
func (p *process) call(ctx context.Context, r *stream.Row, of stream.Flow, request []byte, out any) error {
	c, err := p.link.RoundTrip(ctx, r, of, request)
	if err != nil {
		return err
	}
	defer c.Release()
	switch c.Kind {
	case stream.KindDone:
		err = stream.DecodeCopy(c.Body, out)
	case stream.KindLate:
		return stream.ErrPast
	default:
		var w stream.WireError
		if err = stream.Decoding.Unmarshal(c.Body, &w); err == nil {
			return w.Err()
		}
	}
	if err != nil {
		stream.Wipe(out)
		// The text of the error may quote the answer.
		p.condemn(errors.New("an answer does not decode"))
		return backends.Errorf(backends.Internal, "the answer to %s does not decode", r.Name)
	}
	return nil
}

// do implements [maker]: it makes the call once.
func (p *process) do(ctx context.Context, _ *attempt, r *stream.Row, in, out any) error {
	request := requests.Get().(*bytes.Buffer)
	defer recycle(request)
	if err := stream.Encode(request, in); err != nil {
		return backends.Errorf(backends.Internal, "the %s request does not encode", r.Name)
	}
	err := p.call(ctx, r, stream.FlowOf(ctx, in), request.Bytes(), out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, stream.ErrRetired), errors.Is(err, stream.ErrGone), errors.Is(err, stream.ErrStuck):
		return backends.Errorf(backends.Lost, "the process of plugin %s was lost with the call to %s", p.spec.Name, r.Name)
	case ctx.Err() != nil:
		return expired(ctx)
	case errors.Is(err, stream.ErrPast):
		return stream.ErrLate
	case lostToken(err):
		p.condemn(err)
	}
	return err
}

// stop ends the process in good order: calls under way may finish until ctx
// ends, then the plugin closes its backend.
func (p *process) stop(ctx context.Context) {
	select {
	case <-p.link.Retire():
		// The plugin sees the end of the stream and closes its backend.
		_ = p.link.Conn.CloseWrite()
		p.waitExit(exitTimeout)
	case <-ctx.Done():
	case <-p.broken:
	}
	p.kill()
}

// kill ends the process whatever state it is in, and what belongs to it. Calls
// under way get errGone when it is gone, not before: a repeated creation must
// not meet the first one.
func (p *process) kill() {
	if r := p.runner; r != nil && r.process() != 0 {
		_ = r.Kill(context.Background())
		if !p.waitExit(exitTimeout) {
			r.letGo()
			p.waitExit(exitTimeout)
		}
	}
	if p.link != nil {
		_ = p.link.Conn.Close()
	}
	if p.unwatch != nil {
		p.unwatch()
	}
	p.watching.Wait()
	if p.client != nil {
		// Only cleans up: the process is gone.
		p.client.Kill()
	}
	if p.runner != nil {
		_ = os.RemoveAll(p.runner.dir)
	}
}
