package daemon

import (
	"context"

	"cmkd/daemon/config"
	"cmkd/daemon/identity"
	"cmkd/plugins"
	"cmkd/socket"
)

// privileged reports whether a peer may use what the socket keeps in reserve for
// administrators.
func (d *Daemon) privileged(peer socket.Peer) bool { return d.identities.Load().Privileged(peer) }

// barred reports whether a peer is a plugin. It has the daemon's user, who may be an
// administrator, and a reason to connect only if its module was taken over.
func (d *Daemon) barred(peer socket.Peer) bool {
	p, ok := plugins.OfProcess(int(peer.PID))
	if ok {
		p.Seen.Do(func() {
			d.log.Error("a plugin process connected to the daemon's socket and was refused: do not trust its PKCS#11 module",
				"executable", p.Path, "pid", peer.PID)
		})
	}
	return ok
}

// loadIdentities reads all that the configuration says of callers. Calls that
// start once it has returned know nothing of what was before.
func (d *Daemon) loadIdentities(ctx context.Context, cfg *config.Config) error {
	ids, err := identity.New(cfg, d.log, true)
	if err != nil {
		return err
	}
	for _, w := range ids.Warnings() {
		d.log.WarnContext(ctx, w)
	}
	d.identities.Store(ids)
	return nil
}

// principals tells the KMS API who exists now. It implements [kms.Principals].
type principals struct{ daemon *Daemon }

// Exists implements [kms.Principals].
func (p principals) Exists(arn string) bool { return p.daemon.identities.Load().Exists(arn) }
