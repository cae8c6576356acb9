// Package lifecycle makes keys and their materials, rotates, imports, expires, deletes and
// recovers them: what calls ask for, and what is due without a call.
package lifecycle

import (
	"cmkd/daemon/access"
)

// Lifecycle changes what the tokens hold, together with the rows that say so.
type Lifecycle struct {
	*access.Access
	Config

	managed managedKeys
}

// Config is what a [Lifecycle] works with.
type Config struct {
	Regions []string // every Region served
	MaxKeys int      // in a Region
	// TokenOnlyImport refuses imports whose material would have to pass
	// through a plugin's memory because the token lacks the mechanism.
	TokenOnlyImport bool
	// Managed are the keys that the service manages for its users.
	Managed []ManagedKey
}

// New makes a lifecycle.
func New(a *access.Access, cfg Config) *Lifecycle {
	s := &Lifecycle{Access: a, Config: cfg, managed: newManagedKeys(cfg.Managed)}
	if len(cfg.Managed) > 0 {
		a.Promised = managed{s}
	}
	return s
}
