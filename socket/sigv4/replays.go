package sigv4

import (
	"sync"
	"time"
)

// Replays remembers signatures for as long as they are good, to refuse those
// that come again.
//
// Signature Version 4 has no nonce and its date is in seconds: a client that
// makes the same call twice within one signs it alike. So a repetition is
// refused where it cannot be the same client calling again: if the request is
// [Identity.Unique], or if another user shows it than the first.
type Replays struct {
	mu sync.Mutex // guards what follows
	// seen are signatures by the second in which they were made.
	seen  map[int64]map[[32]byte]uint32
	count int
	// forgotten: signatures of this second and before are not remembered any
	// more, so they are refused.
	forgotten int64
}

// maxReplays bounds the signatures remembered, about 60 bytes each. Past it
// the oldest second is forgotten and its requests are refused, so that under
// load the clocks may be less far apart and still nothing can be replayed.
const maxReplays = 1 << 18

// NewReplays makes an empty memory.
func NewReplays() *Replays { return &Replays{seen: map[int64]map[[32]byte]uint32{}} }

// Check remembers a verified request, which user has shown, and refuses a
// replay with an [*Error].
func (r *Replays) Check(id Identity, user uint32, now time.Time) error {
	second := id.Date.Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now.Add(-maxSkew).Unix() - 1)
	if second <= r.forgotten {
		return errorf(codeInvalid, "Signature expired: %s is too old to be told from a replay.", id.Date.Format(timeFormat))
	}
	first, again := r.seen[second][id.Signature]
	if again && (id.Unique || first != user) {
		return errorf(codeInvalid, "The request signature has been used before.")
	}
	if again {
		return nil
	}
	if r.count >= maxReplays {
		r.forgetOldest()
		if second <= r.forgotten {
			return errorf(codeInvalid, "Signature expired: %s is too old to be told from a replay.", id.Date.Format(timeFormat))
		}
	}
	if r.seen[second] == nil {
		r.seen[second] = map[[32]byte]uint32{}
	}
	r.seen[second][id.Signature] = user
	r.count++
	return nil
}

// forgetOldest forgets the oldest second. The caller holds r.mu.
func (r *Replays) forgetOldest() {
	oldest := int64(0)
	for second := range r.seen {
		if oldest == 0 || second < oldest {
			oldest = second
		}
	}
	r.forget(oldest)
}

// forget forgets all up to and with the second. The caller holds r.mu.
func (r *Replays) forget(through int64) {
	if through <= r.forgotten {
		return
	}
	for second, signatures := range r.seen {
		if second <= through {
			r.count -= len(signatures)
			delete(r.seen, second)
		}
	}
	r.forgotten = through
}
