package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/config"
	"cmkd/daemon/store"
	"cmkd/daemon/store/etcd"
	"cmkd/daemon/store/sqlite"
)

// openStore opens the database where the configuration says it is. It waits for an etcd
// that does not answer.
func (d *Daemon) openStore(ctx context.Context) (*store.Store, error) {
	patience := lockPatience
	if d.cfg.Store.Engine == config.EngineEtcd {
		patience += etcd.LeaseTime(d.cfg.Store.MaxStaleness) // of a daemon that was killed
	}
	var said complaint
	for {
		engine, err := patiently(ctx, patience, store.ErrLocked, func() (store.Engine, error) { return openEngine(ctx, d.cfg, d.log, d.impatient) })
		if err == nil {
			return store.Open(ctx, engine)
		}
		if !errors.Is(err, store.ErrBusy) || d.cfg.Store.Engine != config.EngineEtcd || d.impatient || ctx.Err() != nil {
			return nil, err
		}
		if said.fresh(err) {
			d.log.LogAttrs(ctx, slog.LevelError, "waiting for etcd, nothing is served", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(mendInterval):
		}
	}
}

// openEngine opens the database. alone keeps all other daemons out.
func openEngine(ctx context.Context, cfg *config.Config, log *slog.Logger, alone bool) (store.Engine, error) {
	c := &cfg.Store
	if c.Engine != config.EngineEtcd {
		return sqlite.NewEngine(ctx, databasePath(cfg), sqlite.Options{Restored: func() {
			log.Error("the database files were removed and have been created again: nothing is lost", "folder", cfg.StateDir)
		}})
	}
	config, err := c.TLS()
	if err != nil {
		return nil, err
	}
	return etcd.NewEngine(ctx, etcd.Options{
		Client: clientv3.Config{Endpoints: c.Endpoints, TLS: config},
		Prefix: c.Prefix, Node: c.Node, Lock: filepath.Join(cfg.StateDir, "node.lock"), MaxStaleness: c.MaxStaleness,
		Alone: alone,
	})
}
