package keyring

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// NIST SP 800-38D section 8.3: with random 96-bit IVs, at most 2^32
// encryptions under one key.
const MaxEncryptions = 1 << 32

// Encryptions are recorded in blocks, ahead of their use, so that no call
// waits for the database. A version that uses up a block within blockTime gets
// twice as many with the next one. A crash loses at most one block of a
// version's 2^32.
const (
	minBlock  = 1 << 16
	MaxBlock  = 1 << 22
	blockTime = 5 * time.Minute
)

// maxCredit is how many encryptions under a version may be made beyond what is
// recorded, while the database cannot be written: they are lost from the count
// if the daemon ends before it can be. 2^12 such ends make the limit.
const maxCredit = 1 << 20

// sharedEnd: of the last so many encryptions of a version none is made on credit, if several
// nodes have the database: each would make its own.
const sharedEnd = 1 << 26

// countPause is the time between two attempts to record blocks.
const countPause = time.Second

// Counters count the encryptions of each key version. What is recorded in the
// store is ahead of what was used while it can be written.
type counters struct {
	versions sync.Map // CKA_ID as string -> *counter

	mu      sync.Mutex // guards what follows
	wanted  []*counter // whose next block is to be recorded
	writing bool       // a goroutine does that
	work    sync.WaitGroup

	retry atomic.Int64 // when to try again, nanoseconds since the epoch
}

type counter struct {
	id       []byte // CKA_ID
	used     atomic.Uint64
	reserved atomic.Uint64
	refill   atomic.Uint64 // the next block is recorded when so many are used
	asked    atomic.Bool   // it is being recorded

	block uint64    // the size of the last block; guarded by counters.mu
	at    time.Time // when it was recorded; guarded by counters.mu
}

// Forget drops the count of a version that is destroyed.
func (cs *counters) Forget(v *store.Version) { cs.versions.Delete(string(v.CKAID)) }

// Used is how many encryptions the version has made, as far as this process knows.
func (cs *counters) Used(v *store.Version) uint64 {
	entry, ok := cs.versions.Load(string(v.CKAID))
	if !ok {
		return 0
	}
	return min(entry.(*counter).used.Load(), MaxEncryptions)
}

func (cs *counters) of(v *store.Version) *counter {
	entry, ok := cs.versions.Load(string(v.CKAID))
	if !ok {
		fresh := &counter{id: v.CKAID}
		fresh.used.Store(v.Encryptions)
		fresh.reserved.Store(v.Encryptions)
		fresh.refill.Store(v.Encryptions)
		entry, _ = cs.versions.LoadOrStore(string(v.CKAID), fresh)
	}
	return entry.(*counter)
}

var errExhausted = kmsapi.Errorf(kmsapi.CodeLimitExceededException,
	"The key material has made 2^32 ciphertexts, the most that AES-GCM allows. Rotate the key.")

// Take counts one encryption under the version. It waits for the database only
// when the credit is used up too, or several nodes share the last encryptions.
func (cs *counters) Take(ctx context.Context, db *store.Store, v *store.Version) error {
	c := cs.of(v)
	if c.used.Load() >= MaxEncryptions || c.used.Add(1) > MaxEncryptions {
		return errExhausted
	}
	n := c.used.Load()
	if n > c.refill.Load() {
		cs.want(ctx, db, c)
	}
	reserved := c.reserved.Load()
	if n <= reserved || n <= reserved+maxCredit && (v.Encryptions <= MaxEncryptions-sharedEnd || !db.Shared()) {
		return nil
	}
	if err := cs.write(ctx, db, []*counter{c}); err != nil {
		return fmt.Errorf("counting encryptions: %w", err)
	}
	if c.used.Load() > MaxEncryptions { // other nodes have the rest
		return errExhausted
	}
	return nil
}

// want has the next block recorded by a goroutine, which ends when there
// is nothing more to write.
func (cs *counters) want(ctx context.Context, db *store.Store, c *counter) {
	if c.asked.Load() || time.Now().UnixNano() < cs.retry.Load() || !c.asked.CompareAndSwap(false, true) {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.wanted = append(cs.wanted, c)
	if cs.writing {
		return
	}
	cs.writing = true
	ctx = context.WithoutCancel(ctx)
	cs.work.Go(func() {
		for {
			cs.mu.Lock()
			batch := cs.wanted
			cs.wanted, cs.writing = nil, len(batch) > 0
			cs.mu.Unlock()
			if len(batch) == 0 {
				return
			}
			if cs.write(ctx, db, batch) != nil { // the store says why
				cs.retry.Store(time.Now().Add(countPause).UnixNano())
			}
			for _, c := range batch {
				c.asked.Store(false)
			}
		}
	})
}

// write records the next blocks of versions.
func (cs *counters) write(ctx context.Context, db *store.Store, batch []*counter) error {
	next := make([]uint64, len(batch))
	err := db.Update(ctx, func(tx *store.Tx) error {
		tx.Bookkeeping()
		for i, c := range batch {
			now, ok := tx.VersionByCKAID(c.id)
			if !ok {
				continue // destroyed meanwhile: the token says so too
			}
			if db.Shared() {
				c.meet(now)
			}
			used := max(c.used.Load(), c.reserved.Load())
			next[i] = max(min(used+cs.next(c), MaxEncryptions), now.Encryptions)
			row := *now
			row.Encryptions = next[i]
			if err := tx.PutVersion(&row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, c := range batch {
		if next[i] == 0 {
			continue
		}
		block := cs.next(c)
		cs.mu.Lock()
		c.block, c.at = block, time.Now()
		cs.mu.Unlock()
		c.reserved.Store(next[i])
		refill := next[i] - min(block/2, next[i])
		if next[i] >= MaxEncryptions {
			refill = MaxEncryptions // all of them are recorded: there is no next block
		}
		c.refill.Store(refill)
	}
	return nil
}

// meet counts what other nodes have recorded or given back since this one last did: what
// is recorded is the sum of the blocks of all.
func (c *counter) meet(now *store.Version) {
	others := now.Encryptions - c.reserved.Swap(now.Encryptions) // may wrap around, as the sums do
	c.used.Add(others)
	c.refill.Add(others)
}

// next is the size of the version's next block.
func (cs *counters) next(c *counter) uint64 {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c.block > 0 && time.Since(c.at) < blockTime {
		return min(2*c.block, MaxBlock)
	}
	return max(c.block/2, minBlock)
}

// Settle gives back what is recorded and not used, and records what is
// used and not recorded: no call is answered any more.
func (cs *counters) Settle(ctx context.Context, db *store.Store) error {
	cs.work.Wait()
	return db.Update(ctx, func(tx *store.Tx) (err error) {
		tx.Bookkeeping()
		cs.versions.Range(func(_, entry any) bool {
			c := entry.(*counter)
			now, ok := tx.VersionByCKAID(c.id)
			if !ok {
				return true
			}
			if db.Shared() {
				c.meet(now)
			}
			if used := min(c.used.Load(), MaxEncryptions); now.Encryptions != used {
				row := *now
				row.Encryptions = used
				err = tx.PutVersion(&row)
			}
			return err == nil
		})
		return err
	})
}
