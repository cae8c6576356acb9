package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/daemon/config"
	"cmkd/daemon/keyring"
	"cmkd/daemon/store"
	"cmkd/plugins"
)

// router starts the plugin processes, one of each kind for each token or member of one, and
// finds those that serve a key. It implements [keyring.Router].
type router struct {
	hosts    []*tokenHost
	served   []*served              // one for each plugin of each token
	routes   map[route]*served      // fixed after start
	promises map[string]*promise    // by the plugin's name
	known    map[string]*knownToken // by the title of the token or member
	own      func() *store.View     // nil: members are not compared

	arrivals sync.WaitGroup // tokens that are waited for
	stop     context.CancelFunc
}

// knownToken is what the processes of one token, or of one member, share.
type knownToken struct {
	plugins.Token
	proof proof
}

type route struct {
	token string
	spec  backends.KeySpec
}

// server makes the calls of a plugin on a token, whether it has members or not.
type server interface {
	keyring.Backend
	Wait(ctx context.Context) error
	Renew(ctx context.Context) error
	Away() bool
	Phase() plugins.Phase
	Losses() int
}

var (
	_ server = (*plugins.Host)(nil)
	_ server = (*plugins.Group)(nil)
)

// served is a plugin on a token.
type served struct {
	server
	token  string
	plugin string
	hosts  []*tokenHost
	// preset is what the plugin announced on the first token. It counts until
	// the plugin has seen its own.
	preset []backends.SpecInfo
}

// tokenHost is a plugin process and the token, or the member of one, that it serves.
type tokenHost struct {
	*plugins.Host
	token  string
	member string // "": the token has none
	plugin string
	info   atomic.Pointer[backends.InfoAnswer]
}

// arrivalTimeout is how long the start waits for a further token.
const arrivalTimeout = 5 * time.Second

// startRouter starts every plugin on every token. Those of the first token
// must serve: they announce what key specs there are, and two that announce
// one spec are an error. Further tokens may be away, and come when they can. own has the
// daemon's own keys, which members are compared by; nil: they are not compared.
func startRouter(ctx context.Context, cfg *config.Config, own func() *store.View, log *slog.Logger) (*router, error) {
	r := &router{routes: map[route]*served{}, promises: map[string]*promise{}, known: map[string]*knownToken{}, own: own}
	for _, p := range cfg.Plugins {
		r.promises[p.Name] = newPromise(p.Name)
	}
	for _, part := range cfg.Parts() {
		r.known[part.Title()] = new(knownToken)
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
			s, err := r.serve(ctx, cfg, t, p, log)
			if err != nil {
				return fmt.Errorf("plugin %s on token %s: %w", p.Name, t.Name, err)
			}
			r.served = append(r.served, s)
			r.hosts = append(r.hosts, s.hosts...)
			for _, h := range s.hosts {
				if i > 0 || h.member != "" {
					r.expect(arrive, h, log)
				}
			}
		}
	}
	first := r.served[:len(cfg.Plugins)]
	for _, s := range first {
		if err := r.announce(ctx, s); err != nil {
			return loginError(ctx, first, err)
		}
	}
	r.extend(cfg)
	return r.await(ctx)
}

// loginError is err or, if the token has refused the PIN, the error of the plugin that tried it: the
// others say that they did not.
func loginError(ctx context.Context, plugins []*served, err error) error {
	if backends.CodeOf(err) != backends.LoginFailed {
		return err
	}
	for _, s := range plugins {
		why := s.Wait(ctx)
		if e, ok := errors.AsType[*backends.Error](why); ok && e.Code == backends.LoginFailed && e.RV != 0 {
			return fmt.Errorf("plugin %s on token %s: %w", s.plugin, s.token, why)
		}
	}
	return err
}

// serve starts the plugin on the token, or on each of its members.
func (r *router) serve(ctx context.Context, cfg *config.Config, t config.Token, p config.Plugin, log *slog.Logger) (*served, error) {
	s := &served{token: t.Name, plugin: p.Name}
	var specs []plugins.Spec
	for _, part := range t.Parts() {
		spec, err := r.pluginSpec(cfg, part, p, log)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
		s.hosts = append(s.hosts, &tokenHost{token: t.Name, member: part.Member, plugin: p.Name})
	}
	if len(t.Members) == 0 {
		host, err := plugins.Start(ctx, specs[0])
		if err != nil {
			return nil, err
		}
		s.server, s.hosts[0].Host = host, host
		return s, nil
	}
	group, err := plugins.StartGroup(ctx, plugins.GroupSpec{ShownByAll: t.ShownByAll()}, specs)
	if err != nil {
		return nil, err
	}
	s.server = group
	for i, host := range group.Hosts() {
		s.hosts[i].Host = host
	}
	return s, nil
}

// announce waits for a plugin of the first token and takes in what it serves.
func (r *router) announce(ctx context.Context, s *served) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("plugin %s on token %s: %w", s.plugin, s.token, err)
		}
	}()
	if err := s.Wait(ctx); err != nil {
		return err
	}
	info, err := s.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return err
	}
	if s.hosts[0].member == "" {
		s.hosts[0].info.Store(info)
	}
	s.preset = info.Specs
	for _, spec := range info.Specs {
		at := route{s.token, spec.Spec}
		if other, ok := r.routes[at]; ok {
			return fmt.Errorf("key spec %s is announced by %s too", spec.Spec, other.plugin)
		}
		r.routes[at] = s
	}
	r.promises[s.plugin].make(info)
	return nil
}

// extend routes the key specs of each plugin on further tokens as on the first
// one: it is the same executable.
func (r *router) extend(cfg *config.Config) {
	for i, s := range r.served {
		first := r.served[i%len(cfg.Plugins)]
		if s == first {
			continue
		}
		s.preset = first.preset
		for _, spec := range first.preset {
			r.routes[route{s.token, spec.Spec}] = s
		}
	}
}

// expect asks a plugin what it serves, whenever its token is there.
func (r *router) expect(ctx context.Context, h *tokenHost, log *slog.Logger) {
	r.arrivals.Go(func() {
		if err := h.Ready(ctx); err != nil {
			return // the daemon ends
		}
		info, err := h.Info(ctx, &backends.InfoRequest{})
		if err != nil {
			if ctx.Err() == nil {
				log.LogAttrs(ctx, slog.LevelError, "the plugin does not report what it serves",
					slog.String("plugin", h.plugin), slog.String("token", h.title()), slog.Any("error", err))
			}
			return
		}
		h.info.Store(info)
	})
}

// title names the token or the member.
func (h *tokenHost) title() string { return config.Title(h.token, h.member) }

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

// ready reports whether a process of the plugin serves.
func (h *tokenHost) ready() bool { return h.Phase() == plugins.Ready }

// Route implements [keyring.Router].
func (r *router) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	at := route{token, spec}
	s, ok := r.routes[at]
	if !ok {
		return nil, backends.SpecInfo{}, false
	}
	return s.server, s.info(at.spec), true
}

// info is what is known of the key spec on its token.
func (s *served) info(spec backends.KeySpec) backends.SpecInfo {
	named := func(known backends.SpecInfo) bool { return known.Spec == spec }
	for _, h := range s.hosts {
		if answer := h.info.Load(); answer != nil {
			if i := slices.IndexFunc(answer.Specs, named); i >= 0 {
				return answer.Specs[i]
			}
		}
	}
	return s.preset[slices.IndexFunc(s.preset, named)] // there is a route by it
}

// Available implements [keyring.Router].
func (r *router) Available(token string, spec backends.KeySpec) bool {
	s, ok := r.routes[route{token, spec}]
	return ok && !s.Away()
}

// Serving implements [keyring.Router]. A process that is being replaced counts: its
// calls wait for the next one.
func (r *router) Serving(token string, spec backends.KeySpec) bool {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return false
	}
	phase := s.Phase()
	return phase == plugins.Ready || phase == plugins.Starting && !s.Away()
}

// Renew implements [keyring.Router].
func (r *router) Renew(ctx context.Context, token string, spec backends.KeySpec) error {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return backends.Errorf(backends.Lost, "no plugin has keys of spec %s on token %s", spec, token)
	}
	return s.Renew(ctx)
}

// Losses implements [keyring.Router].
func (r *router) Losses(token string, spec backends.KeySpec) int {
	if s, ok := r.routes[route{token, spec}]; ok {
		return s.Losses()
	}
	return 0
}

// reload swaps every plugin process for a new one, with the executables and
// PINs as they are now. Calls in flight end on the old process.
func (r *router) reload(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	var errs []error
	parts := cfg.Parts()
	for _, h := range r.hosts {
		t := slices.IndexFunc(parts, func(t config.Part) bool { return t.Title() == h.title() })
		p := slices.IndexFunc(cfg.Plugins, func(p config.Plugin) bool { return p.Name == h.plugin })
		if t < 0 || p < 0 {
			return fmt.Errorf("plugin %s on token %s is gone from the configuration: restart the daemon", h.plugin, h.title())
		}
		spec, err := r.pluginSpec(cfg, parts[t], cfg.Plugins[p], log)
		if err != nil {
			return err
		}
		if err := h.Reload(ctx, spec); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s on token %s: %w", h.plugin, h.title(), err))
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
