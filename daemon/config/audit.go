package config

import (
	"errors"
)

// Audit is what the audit trail may take.
type Audit struct {
	// DiskReserve is how many MiB of the trail's file system only the calls of
	// root, the daemon's own user and admins may fill: when less is free, those
	// of others are refused. Optional, 256, and never more than a twentieth of
	// the file system. The status warns at four times as much.
	DiskReserve int64 `toml:"disk_reserve"`
	// RefusalsPerUser is how many records a second a user gets of calls that were
	// refused; those beyond are counted, in one record a minute. Optional, 10.0.
	RefusalsPerUser float64 `toml:"refusals_per_user"`
	// RefusalBurst is how many records of such calls a user gets after a rest.
	// Optional, 1000.
	RefusalBurst int `toml:"refusal_burst"`
	// Ship copies the trail elsewhere. Optional: it stays where it is.
	Ship *Ship `toml:"ship"`
}

func (c *Audit) check() error {
	if c.DiskReserve < 0 || c.RefusalsPerUser < 0 || c.RefusalBurst < 0 {
		return errors.New("the numbers in [audit] must be positive")
	}
	return c.Ship.check()
}
