package kms

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// NIST SP 800-38D section 8.3: with random 96-bit IVs, at most 2^32
// encryptions under one key.
const maxEncryptions = 1 << 32

// encryptionBlock is how many encryptions are put on record at once. A crash
// loses at most one block of a version's 2^32.
const encryptionBlock = 1 << 16

// counters count the encryptions of each key version. What is on record in the
// store is always ahead of what was used.
type counters struct {
	versions sync.Map // CKA_ID as string -> *counter
}

type counter struct {
	used     atomic.Uint64
	reserved atomic.Uint64
	mu       sync.Mutex // held while a block is reserved
}

// forget drops the count of a version that is destroyed.
func (cs *counters) forget(v *store.Version) { cs.versions.Delete(string(v.CKAID)) }

// take counts one encryption under the version.
func (cs *counters) take(ctx context.Context, db *store.Store, v *store.Version) error {
	entry, ok := cs.versions.Load(string(v.CKAID))
	if !ok {
		fresh := &counter{}
		fresh.used.Store(v.Encryptions)
		fresh.reserved.Store(v.Encryptions)
		entry, _ = cs.versions.LoadOrStore(string(v.CKAID), fresh)
	}
	c := entry.(*counter)
	n := c.used.Add(1)
	if n > maxEncryptions {
		return kmsapi.Errorf(kmsapi.CodeLimitExceededException,
			"The key material has made 2^32 ciphertexts, the most that AES-GCM allows. Rotate the key.")
	}
	for n > c.reserved.Load() {
		if err := c.reserve(ctx, db, v); err != nil {
			return err
		}
	}
	return nil
}

// reserve puts the next block on record.
func (c *counter) reserve(ctx context.Context, db *store.Store, v *store.Version) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used.Load() <= c.reserved.Load() {
		return nil // another call did it
	}
	next := c.reserved.Load() + encryptionBlock
	err := db.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		now, ok := tx.VersionByCKAID(v.CKAID)
		if !ok {
			return fmt.Errorf("version %d of key %s is gone", v.Number, v.KeyID)
		}
		row := *now
		row.Encryptions = next
		return tx.PutVersion(&row)
	})
	if err != nil {
		return fmt.Errorf("counting encryptions: %w", err)
	}
	c.reserved.Store(next)
	return nil
}
