package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"cmkd/backends"
	"cmkd/daemon/config"
	"cmkd/daemon/scratch"
	"cmkd/plugins"
)

// Probed is what one plugin found in one token by calling it.
type Probed struct {
	Token  string `json:"token"`
	Plugin string `json:"plugin"`
	// Found is the token that the label or serial number chose.
	Found *ProbedToken `json:"found,omitempty"`
	Specs []ProbedSpec `json:"specs,omitempty"`
	// Facts are what single mechanisms do, and which way imports take.
	Facts map[string]string `json:"facts,omitempty"`
	// Error is why the plugin cannot serve the token at all.
	Error string `json:"error,omitempty"`
}

// ProbedToken is what a token says of itself (CK_TOKEN_INFO).
type ProbedToken struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	// ReadOnly: it is write-protected, so that no key can be made in it.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Keys is how many keys of cmkd's are in it.
	Keys int `json:"keys"`
}

// ProbedSpec is a key spec of the plugin's, and what keys of it may do.
type ProbedSpec struct {
	Spec   backends.KeySpec `json:"spec"`
	Usages []backends.Usage `json:"usages"`
	// Unsupported is why the token cannot hold such keys, "" if it can.
	Unsupported string `json:"unsupported,omitempty"`
}

// probeTimeout bounds the probe of one plugin. Slow tokens take half a minute to
// make an RSA pair of 4096 bits.
const probeTimeout = 3 * time.Minute

var errProbeTimeout = fmt.Errorf("the probe has not ended within %s: the module hangs, or the token is too slow", probeTimeout)

// Probe has each plugin of the configuration probe each token, without the database
// and the audit trail: it leaves nothing in the token, and in the state folder only
// what is known of PINs that the token refused. Warnings are of the files of tokens.
func Probe(ctx context.Context, path string, log *slog.Logger) (_ []Probed, warnings []string, err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, nil, err
	}
	if err := cfg.CheckTrusted(); err != nil {
		return nil, nil, err
	}
	for _, t := range cfg.Parts() { // a module says little of a file that it lacks, and a FIFO is never read to its end
		warning, err := t.CheckFiles()
		if err != nil {
			return nil, warnings, err
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	sockets, remove, err := scratch.New("cmkd-probe-") // a daemon may be using its own
	if err != nil {
		return nil, warnings, fmt.Errorf("a folder for sockets: %w", err)
	}
	defer func() { err = errors.Join(err, remove()) }()
	parts := cfg.Parts()
	found := make([]Probed, 0, len(parts)*len(cfg.Plugins))
	for _, t := range parts {
		list := make([]Probed, len(cfg.Plugins))
		ask := func(i int) (err error) {
			list[i] = Probed{Token: t.Title(), Plugin: cfg.Plugins[i].Name}
			if err = list[i].ask(ctx, cfg, t, cfg.Plugins[i], sockets, log); err != nil {
				list[i].Error = err.Error()
			}
			return err
		}
		// With a PIN that is refused, the first plugin says how it was refused, and
		// the others would say that they did not try it. A module that hangs, or cannot be
		// opened, would do so to the others, too. What is not safe for one kind of key may be
		// for the others.
		if err := ask(0); err != nil && backends.CodeOf(err) != backends.KeyUnsafe {
			found = append(found, list[0])
			continue
		}
		var all sync.WaitGroup
		for i := range list[1:] {
			all.Go(func() { _ = ask(i + 1) }) // it is in the list
		}
		all.Wait()
		found = append(found, list...)
	}
	return found, warnings, ctx.Err()
}

// ask starts the plugin and takes in what it says.
func (out *Probed) ask(ctx context.Context, cfg *config.Config, t config.Part, p config.Plugin, sockets string, log *slog.Logger) (err error) {
	spec, err := pluginSpec(cfg, t, p, log)
	if err != nil {
		return err
	}
	spec.Spare = ""
	spec.Dir, spec.StartTimeout, spec.WaitTimeout = filepath.Join(sockets, p.Name), probeTimeout, probeTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errProbeTimeout)
	defer cancel()
	host, err := plugins.Start(ctx, spec)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer func() { err = errors.Join(err, host.Close(context.WithoutCancel(ctx))) }()
	if err := host.Wait(ctx); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	info, err := host.Info(ctx, &backends.InfoRequest{})
	if err != nil {
		return err
	}
	found := info.Token
	out.Found = &ProbedToken{
		Label: found.Label, Serial: found.Serial, Manufacturer: found.Manufacturer, Model: found.Model, Firmware: found.Firmware,
		ReadOnly: found.ReadOnly, Keys: found.Keys,
	}
	out.Facts = info.Facts
	for _, s := range info.Specs {
		out.Specs = append(out.Specs, ProbedSpec(s))
	}
	return nil
}
