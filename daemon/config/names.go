package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"cmkd/daemon/names"
	"cmkd/daemon/trustedfile"
)

// Names says who tells the names of users and groups. It is read again on SIGHUP.
type Names struct {
	// Source is "files" for /etc/passwd and /etc/group, or "system" for all that
	// nsswitch.conf(5) names, such as SSSD or LDAP. Optional, "files".
	Source string `toml:"source"`
	// Getent is the path of getent(1), by which the system is asked. Optional,
	// "/usr/bin/getent".
	Getent string `toml:"getent"`
	// Timeout bounds one question. Callers whose names are not known within it are
	// refused. Optional, "2s".
	Timeout time.Duration `toml:"timeout"`
	// Cache is how long a name is believed. Optional, "1m".
	Cache time.Duration `toml:"cache"`
}

// The sources of names.
const (
	filesOnly = "files"
	system    = "system"
)

// complete fills in defaults and checks the values.
func (n *Names) complete() error {
	n.Source, n.Getent = cmp.Or(n.Source, filesOnly), cmp.Or(n.Getent, "/usr/bin/getent")
	n.Timeout, n.Cache = cmp.Or(n.Timeout, 2*time.Second), cmp.Or(n.Cache, time.Minute)
	switch {
	case n.Source != filesOnly && n.Source != system:
		return fmt.Errorf("names: source must be %q or %q, not %q", filesOnly, system, n.Source)
	case !filepath.IsAbs(n.Getent):
		return fmt.Errorf("names: getent must be an absolute path, not %q", n.Getent)
	case n.Timeout < 0 || n.Cache < 0:
		return errors.New("names: timeout and cache must not be negative")
	}
	return nil
}

// namesFile has the IDs that have had a name, while the daemon does not run too.
func namesFile(cfg *Config) string { return filepath.Join(cfg.StateDir, "names.json") }

// Database opens what tells names. keep: what is learnt outlives the daemon.
func (cfg *Config) Database(log *slog.Logger, keep bool) (names.Database, error) {
	if cfg.Names.Source != system {
		return names.Files{}, nil
	}
	if err := trustedfile.CheckFile(cfg.Names.Getent, true); err != nil {
		return nil, fmt.Errorf("names: getent: %w", err)
	}
	return names.NewSystem(names.Config{
		Getent: cfg.Names.Getent, Timeout: cfg.Names.Timeout, Cache: cfg.Names.Cache, Memory: namesFile(cfg), Keep: keep, Log: log,
	})
}
