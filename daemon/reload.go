package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

// Reload reads again, on SIGHUP or POST /reload, who callers are: admins,
// principals, access keys and identity policies. All of it must be right, or the
// old set stays. Then it swaps the plugins for new processes: new executables, new
// PINs, no call lost. What else changed in the configuration needs a restart.
//
// Until a reload succeeds, the status is degraded with the reason: permissions
// that somebody wanted to take away are still there.
func (d *Daemon) Reload(ctx context.Context) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	err := d.reload(ctx)
	if err != nil && ctx.Err() != nil {
		d.log.InfoContext(ctx, "reload given up: the daemon is stopping")
		return err
	}
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelError, "reload failed", slog.Any("error", err))
		text := err.Error()
		d.reloadError.Store(&text)
		return err
	}
	d.reloadError.Store(nil)
	d.log.InfoContext(ctx, "reloaded")
	select {
	case d.reloaded <- struct{}{}:
	default: // the jobs have yet to hear of the one before
	}
	return nil
}

func (d *Daemon) reload(ctx context.Context) error {
	cfg, err := LoadConfig(d.path)
	if err != nil {
		return err
	}
	if cfg.Account != d.cfg.Account {
		return fmt.Errorf("the account is %s and cannot become %s", d.cfg.Account, cfg.Account)
	}
	if err := cfg.checkTrusted(); err != nil {
		return err
	}
	d.warnOfPINs(cfg)
	if err := d.loadIdentities(ctx, cfg); err != nil {
		return fmt.Errorf("the old identities and policies stay: %w", err)
	}
	// The plugins first: a token that has refused the old PIN cannot verify the
	// trail before it has the new one.
	return errors.Join(d.router.reload(ctx, cfg, d.log), d.kms.CheckState(ctx))
}

// reloaded is the answer to POST /reload.
type reloaded struct {
	Warnings []string `json:"warnings"`
}

// reloadNow answers POST /reload: it reloads, and tells an operator what failed.
// That is all that systemd can learn of: a reload by SIGHUP never fails.
func (d *Daemon) reloadNow(o *operator, _ *struct{}) (*reloaded, error) {
	// Plugins may take as long to start as at the daemon's own start.
	d.noDeadline(o)
	ctx := context.WithoutCancel(o.Context())
	var failure error
	err := d.kms.Decide(ctx, o.call, func() error {
		failure = d.Reload(ctx)
		return failure
	})
	switch {
	case failure != nil:
		return nil, invalid(http.StatusUnprocessableEntity, failure.Error())
	case err != nil:
		return nil, failed("the reload cannot be recorded: the log says why", err)
	}
	return &reloaded{d.warnings()}, nil
}
