package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/daemon/config"
	"cmkd/daemon/keyring"
	"cmkd/daemon/trustedfile"
	"cmkd/plugins"
	"cmkd/socket/operatorapi"
)

// router starts the plugin processes, one of each kind for each token, and
// finds the one that serves a key. It implements [keyring.Router].
type router struct {
	hosts    []*tokenHost
	routes   map[route]*served         // fixed after start
	promises map[string]*promise       // by the plugin's name
	known    map[string]*plugins.Token // by the token's name

	arrivals sync.WaitGroup // further tokens that are waited for
	stop     context.CancelFunc
}

type route struct {
	token string
	spec  backends.KeySpec
}

// served is a key spec of a token.
type served struct {
	host *tokenHost
	// preset is what the plugin announced on the first token. It counts until
	// the plugin has seen its own.
	preset backends.SpecInfo
}

// tokenHost is a plugin process and the token that it serves.
type tokenHost struct {
	*plugins.Host
	token  string
	plugin string
	info   atomic.Pointer[backends.InfoAnswer]
}

// arrivalTimeout is how long the start waits for a further token.
const arrivalTimeout = 5 * time.Second

// startRouter starts every plugin on every token. Those of the first token
// must serve: they announce what key specs there are, and two that announce
// one spec are an error. Further tokens may be away, and come when they can.
func startRouter(ctx context.Context, cfg *config.Config, log *slog.Logger) (*router, error) {
	r := &router{routes: map[route]*served{}, promises: map[string]*promise{}, known: map[string]*plugins.Token{}}
	for _, p := range cfg.Plugins {
		r.promises[p.Name] = newPromise(p.Name)
	}
	for _, t := range cfg.Tokens {
		r.known[t.Name] = new(plugins.Token)
	}
	arrive, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	if err := r.start(ctx, arrive, cfg, log); err != nil {
		r.close(context.WithoutCancel(ctx))
		return nil, err
	}
	return r, nil
}

func (r *router) start(ctx, arrive context.Context, cfg *config.Config, log *slog.Logger) error {
	for i, t := range cfg.Tokens {
		for _, p := range cfg.Plugins {
			spec, err := r.pluginSpec(cfg, t, p, log)
			if err != nil {
				return fmt.Errorf("plugin %s on token %s: %w", p.Name, t.Name, err)
			}
			host, err := plugins.Start(ctx, spec)
			if err != nil {
				return fmt.Errorf("plugin %s on token %s: %w", p.Name, t.Name, err)
			}
			h := &tokenHost{Host: host, token: t.Name, plugin: p.Name}
			r.hosts = append(r.hosts, h)
			if i > 0 {
				r.expect(arrive, h, log)
			}
		}
	}
	for _, h := range r.hosts[:len(cfg.Plugins)] {
		if err := r.announce(ctx, h); err != nil {
			return err
		}
	}
	r.extend(cfg)
	return r.await(ctx)
}

// announce waits for a plugin of the first token and takes in what it serves.
func (r *router) announce(ctx context.Context, h *tokenHost) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plugin %s on token %s: %w", h.plugin, h.token, err)
		}
	}()
	if err := h.Wait(ctx); err != nil {
		return err
	}
	info, err := h.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return err
	}
	h.info.Store(info)
	for _, spec := range info.Specs {
		at := route{h.token, spec.Spec}
		if other, ok := r.routes[at]; ok {
			return fmt.Errorf("key spec %s is announced by %s too", spec.Spec, other.host.plugin)
		}
		r.routes[at] = &served{host: h, preset: spec}
	}
	r.promises[h.plugin].make(info)
	return nil
}

// extend routes the key specs of each plugin on further tokens as on the first
// one: it is the same executable.
func (r *router) extend(cfg *config.Config) {
	first := cfg.Tokens[0].Name
	for _, h := range r.hosts {
		if h.token == first {
			continue
		}
		for at, s := range r.routes {
			if at.token == first && s.host.plugin == h.plugin {
				r.routes[route{h.token, at.spec}] = &served{host: h, preset: s.preset}
			}
		}
	}
}

// expect asks a plugin of a further token what it serves, whenever it is there.
func (r *router) expect(ctx context.Context, h *tokenHost, log *slog.Logger) {
	r.arrivals.Go(func() {
		if err := h.Ready(ctx); err != nil {
			return // the daemon ends
		}
		info, err := h.Info(ctx, &backends.InfoRequest{})
		if err != nil {
			if ctx.Err() == nil {
				log.LogAttrs(ctx, slog.LevelError, "the plugin does not report what it serves",
					slog.String("plugin", h.plugin), slog.String("token", h.token), slog.Any("error", err))
			}
			return
		}
		h.info.Store(info)
	})
}

// await gives further tokens a moment, so that a start where nothing is amiss
// ends with every token there.
func (r *router) await(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, arrivalTimeout)
	defer cancel()
	for _, h := range r.hosts {
		_ = h.Wait(bounded) // its state says what is the matter
	}
	return ctx.Err()
}

// pluginsDir is where plugin processes have their sockets.
func pluginsDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "plugins") }

// loginPrefix begins the names of the files with PINs that tokens refused, before the
// token's name.
const loginPrefix = "login-"

// spareDir is where they have them while the disk of the state folder is full or
// read-only: in memory. It is for one state folder and one user.
func spareDir(cfg *config.Config) string {
	sum := sha256.Sum256([]byte(cfg.StateDir))
	return fmt.Sprintf("/dev/shm/cmkd-%d-%x", os.Geteuid(), sum[:8])
}

// pluginSpec is the plugin on a token, held to what it must serve.
func (r *router) pluginSpec(cfg *config.Config, t config.Token, p config.Plugin, log *slog.Logger) (plugins.Spec, error) {
	spec, err := pluginSpec(cfg, t, p, log)
	spec.Token = r.known[t.Name]
	spec.Accept = func(info *backends.InfoAnswer) error { return r.promises[p.Name].kept(p.Path, info) }
	return spec, err
}

// pluginSpec is the plugin on a token, whatever it serves.
func pluginSpec(cfg *config.Config, t config.Token, p config.Plugin, log *slog.Logger) (plugins.Spec, error) {
	sum, err := hex.DecodeString(p.SHA256)
	if err != nil {
		return plugins.Spec{}, fmt.Errorf("sha256 is not hexadecimal: %w", err)
	}
	if len(sum) == 0 {
		sum = nil
	}
	pin, err := trustedfile.SecretPath(t.PINFile)
	if err != nil {
		return plugins.Spec{}, fmt.Errorf("pin_file: %w", err)
	}
	return plugins.Spec{
		Name: t.Name + "/" + p.Name, Path: p.Path, SHA256: sum, Dir: pluginsDir(cfg), Spare: spareDir(cfg), Env: t.Env,
		Logger: log.With("plugin", p.Name, "token", t.Name),
		Config: plugins.Config{
			Module: t.Module, TokenLabel: t.Label, TokenSerial: t.Serial,
			PINFile: pin, MaxSessions: t.MaxSessions, Workers: t.Workers, Sandbox: plugins.Sandbox(t.Sandbox),
			LoginRecord: filepath.Join(cfg.StateDir, loginPrefix+t.Name),
		},
		AwayAfter: t.UnavailableAfter,
	}, nil
}

// ready reports whether a process of the plugin serves.
func (h *tokenHost) ready() bool { return h.Phase() == plugins.Ready }

// Route implements [keyring.Router].
func (r *router) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	at := route{token, spec}
	s, ok := r.routes[at]
	if !ok {
		return nil, backends.SpecInfo{}, false
	}
	return s.host, s.info(at.spec), true
}

// info is what is known of the key spec on its token.
func (s *served) info(spec backends.KeySpec) backends.SpecInfo {
	if answer := s.host.info.Load(); answer != nil {
		for _, known := range answer.Specs {
			if known.Spec == spec {
				return known
			}
		}
	}
	return s.preset
}

// Available implements [keyring.Router].
func (r *router) Available(token string, spec backends.KeySpec) bool {
	s, ok := r.routes[route{token, spec}]
	return ok && !s.host.Away()
}

// Serving implements [keyring.Router]. A process that is being replaced counts: its
// calls wait for the next one.
func (r *router) Serving(token string, spec backends.KeySpec) bool {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return false
	}
	phase := s.host.Phase()
	return phase == plugins.Ready || phase == plugins.Starting && !s.host.Away()
}

// Renew implements [keyring.Router].
func (r *router) Renew(ctx context.Context, token string, spec backends.KeySpec) error {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return backends.Errorf(backends.Lost, "no plugin has keys of spec %s on token %s", spec, token)
	}
	return s.host.Renew(ctx)
}

// Losses implements [keyring.Router].
func (r *router) Losses(token string, spec backends.KeySpec) int {
	if s, ok := r.routes[route{token, spec}]; ok {
		return s.host.Losses()
	}
	return 0
}

// reload swaps every plugin process for a new one, with the executables and
// PINs as they are now. Calls in flight end on the old process.
func (r *router) reload(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	var errs []error
	for _, h := range r.hosts {
		t := slices.IndexFunc(cfg.Tokens, func(t config.Token) bool { return t.Name == h.token })
		p := slices.IndexFunc(cfg.Plugins, func(p config.Plugin) bool { return p.Name == h.plugin })
		if t < 0 || p < 0 {
			return fmt.Errorf("plugin %s on token %s is gone from the configuration: restart the daemon", h.plugin, h.token)
		}
		spec, err := r.pluginSpec(cfg, cfg.Tokens[t], cfg.Plugins[p], log)
		if err != nil {
			return err
		}
		if err := h.Reload(ctx, spec); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s on token %s: %w", h.plugin, h.token, err))
		}
	}
	return errors.Join(errs...)
}

// closeTimeout is how long plugin processes may take to end their calls, of which
// nobody waits for an answer any more.
const closeTimeout = 3 * time.Second

// close ends the plugin processes.
func (r *router) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	r.stop()
	var closing sync.WaitGroup
	for _, h := range r.hosts {
		closing.Go(func() { _ = h.Close(ctx) }) // it ends in any case
	}
	closing.Wait()
	r.arrivals.Wait()
}

// prove has every token answer, of whose plugins nobody knows better, and waits for
// that as long as ctx lasts: a token that nobody uses is away unnoticed.
func (r *router) prove(ctx context.Context) {
	var asked sync.WaitGroup
	for _, h := range r.hosts {
		if h.ready() {
			asked.Go(func() { _ = h.Prove(ctx) }) // what it finds out is the plugin's state
		}
	}
	asked.Wait()
}

// tokens describes each token once, for the log and the status.
func (r *router) tokens() []operatorapi.TokenHealth {
	found := map[string]operatorapi.TokenHealth{}
	for _, h := range r.hosts {
		info := h.info.Load()
		s := operatorapi.TokenHealth{Name: h.token, State: operatorapi.OK}
		if info != nil {
			s.Label, s.Serial = strings.TrimSpace(info.Token.Label), strings.TrimSpace(info.Token.Serial)
			s.Model = strings.TrimSpace(info.Token.Manufacturer + " " + info.Token.Model)
		}
		if old, ok := found[h.token]; ok {
			s.State = old.State
		}
		if !h.ready() {
			s.State = "unavailable"
		}
		found[h.token] = s
	}
	return slices.SortedFunc(maps.Values(found), func(a, b operatorapi.TokenHealth) int { return strings.Compare(a.Name, b.Name) })
}
