package daemon

import "cmkd/daemon/store"

// Store lets tests put rows into states that no call reaches from outside.
func (d *Daemon) Store() *store.Store { return d.store }
