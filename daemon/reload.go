package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"cmkd/daemon/config"
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
	cfg, err := config.Load(d.path)
	if err != nil {
		return err
	}
	if cfg.Account != d.cfg.Account {
		return fmt.Errorf("the account is %s and cannot become %s", d.cfg.Account, cfg.Account)
	}
	if err := cfg.CheckTrusted(); err != nil {
		return err
	}
	d.warnOfPINs(cfg)
	if err := d.loadIdentities(ctx, cfg); err != nil {
		return fmt.Errorf("the old identities and policies stay: %w", err)
	}
	// The plugins first: a token that has refused the old PIN cannot verify the
	// trail before it has the new one.
	return errors.Join(d.ship(cfg), d.router.reload(ctx, cfg, d.log), d.kms.CheckState(ctx))
}
