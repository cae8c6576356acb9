package daemon

import (
	"context"
	"log/slog"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cmkd/daemon/config"
	"cmkd/daemon/store"
	"cmkd/daemon/store/etcd"
	"cmkd/daemon/store/sqlite"
)

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
