package config

import (
	"fmt"
	"strings"

	"cmkd/daemon/journal"
)

// Duty names who has a part in running the daemon without being an
// administrator. It is read again on SIGHUP.
type Duty struct {
	// Users are names or uids.
	Users []string `toml:"users"`
	// Groups are names or gids.
	Groups []string `toml:"groups"`
	// Units are systemd services or scopes; "web@.service" names every instance.
	Units []string `toml:"units"`
}

// Members are the administrators, in the form of a duty.
func (a *Admins) Members() *Duty { return &Duty{Users: a.Users, Groups: a.Groups} }

// CheckUnit refuses what is not the name of a unit that can have processes.
func CheckUnit(name string) error {
	if !strings.HasSuffix(name, ".service") && !strings.HasSuffix(name, ".scope") || strings.Contains(name, "/") {
		return fmt.Errorf("unit must be the name of a service or scope, not %q", name)
	}
	return nil
}

// Duties are the configuration's duties.
func (cfg *Config) Duties() map[journal.Duties]Duty {
	return map[journal.Duties]Duty{journal.Monitoring: cfg.Monitors, journal.Auditing: cfg.Auditors, journal.Operating: cfg.Operators}
}

// DutyTables are their tables in the configuration.
var DutyTables = map[journal.Duties]string{journal.Monitoring: "monitors", journal.Auditing: "auditors", journal.Operating: "operators"}
