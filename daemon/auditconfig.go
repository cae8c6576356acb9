package daemon

import (
	"cmkd/daemon/audit"
	"cmkd/socket/operatorapi"
)

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
