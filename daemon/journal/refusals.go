package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/time/rate"

	"cmkd/socket/kmsapi"
)

// A refused call costs its caller next to nothing, and a record of it takes as
// much of the disk as that of any other call. So each user to whom nothing was
// allowed gets RefusalRate records of it a second, and RefusalBurst after a rest.
// The calls beyond are counted: one record a minute reports them. Records of
// administrators' refusals are never thinned out.
type refusals struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	byUID map[uint32]*refusedUser // guarded by mu
}

type refusedUser struct {
	limiter *rate.Limiter
	caller  *Caller
	omitted int // calls without a record since the last one that reports them
}

func newRefusals(perSecond float64, burst int) refusals {
	return refusals{
		limit: rate.Limit(cmp.Or(perSecond, 10)), burst: cmp.Or(burst, 1000),
		byUID: map[uint32]*refusedUser{},
	}
}

// user finds what is known of the caller's user. The caller holds r.mu.
func (r *refusals) user(c *Caller) *refusedUser {
	u := r.byUID[c.UID]
	if u == nil {
		u = &refusedUser{limiter: rate.NewLimiter(r.limit, r.burst)}
		r.byUID[c.UID] = u
	}
	u.caller = c
	return u
}

// take reports whether a refusal of the caller gets a record of its own, or
// counts it.
func (r *refusals) take(c *Caller) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.user(c)
	if u.limiter.Allow() {
		return true
	}
	u.omitted++
	return false
}

// count counts a refusal that cannot have a record.
func (r *refusals) count(c *Caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user(c).omitted++
}

// drain returns the users with calls that were only counted, and forgets those
// that were not refused for a while.
func (r *refusals) drain() []refusedUser {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []refusedUser
	for uid, u := range r.byUID {
		if u.omitted > 0 {
			found = append(found, *u)
			u.omitted = 0
		} else if u.limiter.Tokens() >= float64(r.burst) {
			delete(r.byUID, uid)
		}
	}
	return found
}

// giveBack is for a count that could not be recorded.
func (r *refusals) giveBack(u *refusedUser) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user(u.caller).omitted += u.omitted
}

// FlushRefusals records how many calls of each user were refused without a
// record.
func (s *Journal) FlushRefusals(ctx context.Context) error {
	var errs []error
	for _, u := range s.refusals.drain() {
		c := s.NewCall(u.caller, &kmsapi.Request{Operation: "RefusedCalls"})
		c.Record.ReadOnly = true
		c.Record.ErrorCode, c.Record.ErrorMessage = kmsapi.CodeThrottlingException, "Rate exceeded"
		c.Record.AdditionalEventData.Details = jsontext.Value(fmt.Sprintf(`{"calls":%d}`, u.omitted))
		if err := s.Trail.Append(ctx, &c.Record); err != nil {
			s.refusals.giveBack(&u)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
