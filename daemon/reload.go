package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
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
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelError, "reload failed", slog.Any("error", err))
		text := err.Error()
		d.reloadError.Store(&text)
		return err
	}
	d.reloadError.Store(nil)
	d.log.InfoContext(ctx, "reloaded")
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
	if err := d.loadIdentities(ctx, cfg); err != nil {
		return fmt.Errorf("the old identities and policies stay: %w", err)
	}
	return errors.Join(d.kms.CheckState(ctx), d.router.reload(ctx, cfg, d.log))
}

// serveReload answers POST /reload: it reloads, and tells an operator what failed.
// That is all that systemd can learn of: a reload by SIGHUP never fails.
func (d *Daemon) serveReload(w http.ResponseWriter, r *http.Request) {
	caller := d.admin(w, r)
	if caller == nil {
		return
	}
	if err := d.kms.RecordReload(r.Context(), caller); err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelError, "the reload is not recorded", slog.Any("error", err))
		http.Error(w, "the reload cannot be recorded: the log says why", http.StatusInternalServerError)
		return
	}
	// Plugins may take as long to start as at the daemon's own start.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
		d.log.LogAttrs(r.Context(), slog.LevelWarn, "the answer to cmkctl reload has a deadline", slog.Any("error", err))
	}
	if err := d.Reload(context.WithoutCancel(r.Context())); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string][]string{"warnings": d.identities.Load().warnings()}) // the client may be gone
}
