package daemon

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cmkd/backends"
	"cmkd/daemon/kms"
	"cmkd/plugins"
)

// router starts the plugin processes, one of each kind for each token, and
// finds the one that serves a key. It implements [kms.Router].
type router struct {
	hosts  []*tokenHost
	routes map[route]*served // fixed after start
}

type route struct {
	token string
	spec  backends.KeySpec
}

type served struct {
	host *tokenHost
	info backends.SpecInfo
}

// tokenHost is a plugin process and the token that it serves.
type tokenHost struct {
	*plugins.Host
	token  string
	plugin string
	info   atomic.Pointer[backends.InfoAnswer]
}

// startRouter starts every plugin on every token and asks what they serve. Two
// plugins that announce one key spec are an error.
func startRouter(ctx context.Context, cfg *Config, log *slog.Logger, socketDir string) (*router, error) {
	r := &router{routes: map[route]*served{}}
	for _, t := range cfg.Tokens {
		for _, p := range cfg.Plugins {
			if err := r.add(ctx, t, p, log, socketDir); err != nil {
				r.close(context.WithoutCancel(ctx))
				return nil, fmt.Errorf("plugin %s on token %s: %w", p.Name, t.Name, err)
			}
		}
	}
	return r, nil
}

func (r *router) add(ctx context.Context, t TokenConfig, p PluginConfig, log *slog.Logger, socketDir string) error {
	spec, err := pluginSpec(t, p, log, socketDir)
	if err != nil {
		return err
	}
	host, err := plugins.Start(ctx, spec)
	if err != nil {
		return err
	}
	h := &tokenHost{Host: host, token: t.Name, plugin: p.Name}
	r.hosts = append(r.hosts, h)
	if err := h.Wait(ctx); err != nil {
		return err
	}
	info, err := h.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return err
	}
	h.info.Store(info)
	for _, spec := range info.Specs {
		at := route{t.Name, spec.Spec}
		if other, ok := r.routes[at]; ok {
			return fmt.Errorf("key spec %s is announced by %s too", spec.Spec, other.host.plugin)
		}
		r.routes[at] = &served{host: h, info: spec}
	}
	return nil
}

func pluginSpec(t TokenConfig, p PluginConfig, log *slog.Logger, socketDir string) (plugins.Spec, error) {
	sum, err := hex.DecodeString(p.SHA256)
	if err != nil {
		return plugins.Spec{}, fmt.Errorf("sha256 is not hexadecimal: %w", err)
	}
	if len(sum) == 0 {
		sum = nil
	}
	return plugins.Spec{
		Name: t.Name + "/" + p.Name, Path: p.Path, SHA256: sum, Dir: socketDir, Env: t.Env,
		Logger: log.With("plugin", p.Name, "token", t.Name),
		Config: plugins.Config{
			Module: t.Module, TokenLabel: t.Label, TokenSerial: t.Serial,
			PINFile: t.PINFile, MaxSessions: t.MaxSessions,
		},
	}, nil
}

// ready reports whether a process of the plugin serves.
func (h *tokenHost) ready() bool { return h.Phase() == plugins.Ready }

// Route implements [kms.Router].
func (r *router) Route(token string, spec backends.KeySpec) (kms.Backend, backends.SpecInfo, bool) {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return nil, backends.SpecInfo{}, false
	}
	return s.host, s.info, true
}

// Available implements [kms.Router]. A process that is being replaced counts:
// its calls wait for the next one, and a key whose state flickered would fail
// calls that need not fail.
func (r *router) Available(token string, spec backends.KeySpec) bool {
	s, ok := r.routes[route{token, spec}]
	if !ok {
		return false
	}
	phase := s.host.Phase()
	return phase == plugins.Ready || phase == plugins.Starting
}

// reload swaps every plugin process for a new one, with the executables and
// PINs as they are now. Calls in flight end on the old process.
func (r *router) reload(ctx context.Context, cfg *Config, log *slog.Logger, socketDir string) error {
	for _, h := range r.hosts {
		t := slices.IndexFunc(cfg.Tokens, func(t TokenConfig) bool { return t.Name == h.token })
		p := slices.IndexFunc(cfg.Plugins, func(p PluginConfig) bool { return p.Name == h.plugin })
		if t < 0 || p < 0 {
			return fmt.Errorf("plugin %s on token %s is gone from the configuration: restart the daemon", h.plugin, h.token)
		}
		spec, err := pluginSpec(cfg.Tokens[t], cfg.Plugins[p], log, socketDir)
		if err != nil {
			return err
		}
		if err := h.Reload(ctx, spec); err != nil {
			return fmt.Errorf("plugin %s on token %s: %w", h.plugin, h.token, err)
		}
	}
	return nil
}

// close ends the plugin processes.
func (r *router) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, h := range r.hosts {
		_ = h.Close(ctx) // it ends in any case
	}
}

// tokens describes each token once, for the log and the status.
func (r *router) tokens() []tokenStatus {
	found := map[string]tokenStatus{}
	for _, h := range r.hosts {
		info := h.info.Load()
		s := tokenStatus{Name: h.token, State: "ok"}
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
	return slices.SortedFunc(maps.Values(found), func(a, b tokenStatus) int { return strings.Compare(a.Name, b.Name) })
}
