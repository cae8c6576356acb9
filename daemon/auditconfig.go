package daemon

import (
	"errors"

	"cmkd/daemon/audit"
	"cmkd/socket/operatorapi"
)

// AuditConfig is what the audit trail may take.
type AuditConfig struct {
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
	Ship *ShipConfig `toml:"ship"`
}

func (c *AuditConfig) check() error {
	if c.DiskReserve < 0 || c.RefusalsPerUser < 0 || c.RefusalBurst < 0 {
		return errors.New("the numbers in [audit] must be positive")
	}
	return c.Ship.check()
}

// auditConfig is the configuration of the audit trail.
func (d *Daemon) auditConfig() audit.Config {
	return audit.Config{
		Dir: d.cfg.AuditDir, Node: d.cfg.Store.Node, SegmentBytes: d.segmentBytes, Signer: &d.signer, GoOn: true, Logger: d.log,
		DiskReserve: d.cfg.Audit.DiskReserve << 20, Backlog: audit.Backlog(d.cfg.Socket.MaxCalls),
	}
}

// auditDisk is what operators are told of the disk of the audit trail.
func (d *Daemon) auditDisk() operatorapi.AuditDisk {
	space := d.audit.Space()
	s := operatorapi.AuditDisk{FreeBytes: space.Free, TotalBytes: space.Total, Reserved: space.Reserved}
	switch {
	case space.Reserved:
		s.Warning = "the disk is nearly full: only calls of root and admins are answered; make room, or move old segments away"
	case space.Low:
		s.Warning = "the disk is getting full: make room, or move old segments away"
	}
	return s
}
