package daemon

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/daemon/audit/ship"
	"cmkd/daemon/config"
	"cmkd/socket/operatorapi"
)

// shipping is the shipper of the configuration in use.
type shipping struct {
	mu    sync.Mutex // held while the shipper is replaced; guards ended
	ended bool
	// now is what there is, for those who only ask: nothing before the first.
	now atomic.Pointer[shipper]
}

type shipper struct {
	*ship.Shipper       // nil: none
	err           error // why there is none that should be
	identity      [sha256.Size]byte
}

// stop ends what there is.
func (s *shipping) stop() {
	if now := s.now.Load(); now != nil && now.Shipper != nil {
		now.Stop()
	}
}

// positionName is the file in the state folder that has how far the trail is shipped.
const positionName = "shipped.json"

// ship ships as the configuration says, in place of what was before. The shipper has
// goroutines of its own: no call waits for it.
func (d *Daemon) ship(cfg *config.Config) error {
	d.shipping.mu.Lock()
	defer d.shipping.mu.Unlock()
	if d.shipping.ended {
		return nil
	}
	var receiver ship.Receiver
	var next shipper
	if cfg.Audit.Ship != nil {
		var err error
		if receiver, err = cfg.Audit.Ship.Receiver(); err == nil {
			next.identity, err = cfg.Audit.Ship.Identity()
		}
		if err != nil {
			err = fmt.Errorf("audit.ship: %w", err)
			if now := d.shipping.now.Load(); now == nil || now.Shipper == nil {
				d.shipping.now.Store(&shipper{err: err})
			}
			return err
		}
	}
	if now := d.shipping.now.Load(); now != nil && now.Shipper != nil && receiver != nil && now.identity == next.identity && now.Status().Error == "" {
		return nil // nothing has changed, and nothing is the matter
	}
	d.shipping.stop() // its status counts until there is another
	if receiver != nil {
		next.Shipper, next.err = ship.Start(ship.Config{
			Dir: d.cfg.AuditDir, Position: filepath.Join(d.cfg.StateDir, positionName), Source: d.audit, Receiver: receiver, Logger: d.log,
		})
	}
	d.shipping.now.Store(&next)
	return next.err
}

// endShipping ends it: what has not been taken is sent after the next start.
func (d *Daemon) endShipping() {
	d.shipping.mu.Lock()
	defer d.shipping.mu.Unlock()
	d.shipping.ended = true
	d.shipping.stop()
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
	s := d.shipping.now.Load()
	switch {
	case s == nil:
		return nil, false
	case s.err != nil:
		return &operatorapi.AuditShipping{Error: s.err.Error()}, true
	case s.Shipper == nil:
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
