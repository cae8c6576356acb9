package kms

import "sync"

// Trust is what the daemon believes of its database and its audit trail: nothing before a
// key in the token has authenticated it.
type Trust struct {
	*Keyring

	integrity integrity
	backups   sync.Mutex // held while the key of backups is made
}
