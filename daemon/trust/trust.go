package trust

import (
	"sync"

	"cmkd/daemon/keyring"
)

// Trust is what the daemon believes of its database and its audit trail: nothing before a
// key in the token has authenticated it.
type Trust struct {
	*keyring.Keyring

	integrity integrity
	backups   sync.Mutex // held while the key of backups is made
}

// New makes what the daemon trusts by. The epoch is tried again whenever a key was made.
func New(ring *keyring.Keyring) *Trust {
	t := &Trust{Keyring: ring}
	ring.Generated = t.RetryEpoch
	return t
}
