package sigv4

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"
)

// Replays remembers signatures for as long as they are good, to refuse those
// that come again.
//
// Signature Version 4 has no nonce and its date is in seconds: a client that
// makes the same call twice within one signs it alike. So a repetition is
// refused where it cannot be the same client calling again: if the request is
// [Identity.Unique], if another user shows it than the first, or if the
// requests of that second have long arrived.
//
// Every access key has a budget of its own. Who uses it up is throttled until
// its oldest signatures expire, and nobody else is.
type Replays struct {
	seed maphash.Seed
	// elapsed is a monotonic clock. Arrivals are by it.
	elapsed func() time.Duration

	mu    sync.Mutex // guards what follows
	keys  map[string]*signatures
	swept time.Duration // when all of keys were last looked through
}

// Budget is the number of signatures remembered for each access key, about 30
// bytes each: 1,700 calls per second, all the time, since one that is made now
// is remembered for ten minutes at most.
const Budget = 1 << 20

// remembered is how long a signature can be good after it has been shown: made
// maxSkew ahead of the clock, it is good until maxSkew behind it.
const remembered = 2 * maxSkew

// maxLag is how much later than the first request of a second another one that
// was signed in the same second may arrive.
const maxLag = 10 * time.Second

// signatures are those of one access key.
type signatures struct {
	// seconds are the signatures by the second in which they say they were
	// made.
	seconds map[int64]*signedSecond
	count   int
	// tidied is when expired seconds were last looked for.
	tidied time.Duration
}

// signedSecond are the signatures of one second.
type signedSecond struct {
	first, last time.Duration // arrivals
	// users are those who showed a signature first. nil: they have been
	// forgotten and every signature of the second is refused.
	users map[uint64]uint32
}

// NewReplays makes an empty memory.
func NewReplays() *Replays {
	start := time.Now()
	return &Replays{
		seed: maphash.MakeSeed(), keys: map[string]*signatures{},
		elapsed: func() time.Duration { return time.Since(start) },
	}
}

// Check remembers a verified request, which user has shown, and refuses a
// replay with an [*Error], and one beyond the [Budget] of its access key with
// an [*Error] of the code ThrottlingException. now is the time of the clock by
// which the request was verified.
func (r *Replays) Check(id Identity, user uint32, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	arrival := r.elapsed()
	r.sweep(now, arrival)
	k := r.keys[id.AccessKeyID]
	if k == nil {
		// Only keys that exist sign well, so there are not many.
		k = &signatures{seconds: map[int64]*signedSecond{}}
		r.keys[id.AccessKeyID] = k
	}
	if arrival-k.tidied >= time.Second {
		k.tidy(now, arrival)
	}
	return k.check(r.short(id.Signature), id, user, arrival)
}

// sweep forgets access keys that are not used any more. The caller holds r.mu.
func (r *Replays) sweep(now time.Time, arrival time.Duration) {
	if arrival-r.swept < time.Minute {
		return
	}
	r.swept = arrival
	for id, k := range r.keys {
		k.tidy(now, arrival)
		if len(k.seconds) == 0 {
			delete(r.keys, id)
		}
	}
}

// short stands for a signature. Two of them look alike by chance once in 2^64,
// and nobody can search for such a pair without the seed.
func (r *Replays) short(signature [32]byte) uint64 {
	return maphash.Bytes(r.seed, signature[:]) ^ binary.LittleEndian.Uint64(signature[:])
}

func (k *signatures) check(short uint64, id Identity, user uint32, arrival time.Duration) error {
	s := k.seconds[id.Date.Unix()]
	if s != nil && s.users == nil {
		return errorf(codeInvalid, "The clock was set back, and a signature of %s can be a replay. Sign the request again.", id.Date.Format(timeFormat))
	}
	if s != nil {
		if first, again := s.users[short]; again {
			if id.Unique || first != user || arrival-s.first > maxLag {
				return errorf(codeInvalid, "The request signature has been used before.")
			}
			return nil
		}
	}
	if k.count >= Budget {
		return errorf(codeThrottling, "Rate exceeded: the access key made more than %d calls within %.0f minutes.", Budget, remembered.Minutes())
	}
	if s == nil {
		s = &signedSecond{first: arrival, users: map[uint64]uint32{}}
		k.seconds[id.Date.Unix()] = s
	}
	s.last = arrival
	s.users[short] = user
	k.count++
	return nil
}

// tidy forgets what has expired. Both clocks must say so: by the wall clock
// alone, one that jumps ahead for a moment would make replays good, and by the
// monotonic one alone, one that was set back.
//
// A second beyond what is good now is from a clock that was ahead. It does not
// use up the budget until the clock gets there, when it is refused whole.
func (k *signatures) tidy(now time.Time, arrival time.Duration) {
	k.tidied = arrival
	for second, s := range k.seconds {
		date := time.Unix(second, 0)
		switch {
		case date.Before(now.Add(-maxSkew-time.Second)) && arrival-s.last > remembered:
			k.count -= len(s.users)
			delete(k.seconds, second)
		case date.After(now.Add(maxSkew + time.Second)):
			k.count -= len(s.users)
			s.users = nil
		}
	}
}
