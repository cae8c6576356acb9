package daemon

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"cmkd/daemon/audit/ship"
	"cmkd/socket/operatorapi"
)

// shipping is the shipper of the configuration in use.
type shipping struct {
	mu      sync.Mutex // guards what follows
	shipper *ship.Shipper
	err     error // why there is none
	ended   bool
}

// positionName is the file in the state folder that has how far the trail is shipped.
const positionName = "shipped.json"

// ship ships as the configuration says, in place of what was before. The shipper has
// goroutines of its own: no call waits for it.
func (d *Daemon) ship(cfg *Config) error {
	d.shipping.mu.Lock()
	defer d.shipping.mu.Unlock()
	if d.shipping.ended {
		return nil
	}
	var receiver ship.Receiver
	if cfg.Audit.Ship != nil {
		var err error
		if receiver, err = cfg.Audit.Ship.receiver(); err != nil {
			err = fmt.Errorf("audit.ship: %w", err)
			if d.shipping.shipper == nil {
				d.shipping.err = err
			}
			return err
		}
	}
	if d.shipping.shipper != nil {
		d.shipping.shipper.Stop()
		d.shipping.shipper = nil
	}
	d.shipping.err = nil
	if receiver == nil {
		return nil
	}
	d.shipping.shipper, d.shipping.err = ship.Start(ship.Config{
		Dir: d.cfg.AuditDir, Position: filepath.Join(d.cfg.StateDir, positionName), Source: d.audit, Receiver: receiver, Logger: d.log,
	})
	return d.shipping.err
}

// endShipping ends it: what has not been taken is sent after the next start.
func (d *Daemon) endShipping() {
	d.shipping.mu.Lock()
	defer d.shipping.mu.Unlock()
	d.shipping.ended = true
	if d.shipping.shipper != nil {
		d.shipping.shipper.Stop()
		d.shipping.shipper = nil
	}
}

// The status is degraded when nothing could be shipped for so long, or when a record
// has waited for so long.
const (
	shipErrorTime = time.Minute
	shipLagTime   = 10 * time.Minute
)

// auditShipping is how far the trail is shipped, nil if it is not, and whether
// somebody should act.
func (d *Daemon) auditShipping() (_ *operatorapi.AuditShipping, late bool) {
	if !d.shipping.mu.TryLock() { // a reload waits for a program to end
		return &operatorapi.AuditShipping{Error: "it is being started again"}, false
	}
	s, err := d.shipping.shipper, d.shipping.err
	d.shipping.mu.Unlock()
	switch {
	case err != nil:
		return &operatorapi.AuditShipping{Error: err.Error()}, true
	case s == nil:
		return nil, false
	}
	now := time.Now()
	st := s.Status()
	lag := st.Lag(now)
	late = st.Error != "" && now.Sub(st.Since) >= shipErrorTime || lag >= shipLagTime
	return &operatorapi.AuditShipping{
		To: st.To, Position: st.Position, LagRecords: st.Records, LagSeconds: int64(lag.Seconds()), Error: st.Error, LostRecords: st.Lost,
	}, late
}
