package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"golang.org/x/time/rate"

	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
)

// A call that the socket refuses, past a limit, costs its caller next to
// nothing, and a record of it takes as much of the disk as that of any other
// call. So each user gets refusalRate records a second, refusalBurst after a
// rest, and the calls beyond are counted: one record a minute tells of them.
const (
	refusalRate  = 10
	refusalBurst = 100
)

// refusals are the users whose calls the socket has refused of late.
type refusals struct {
	mu    sync.Mutex
	byUID map[uint32]*refusedUser // guarded by mu
}

type refusedUser struct {
	limiter *rate.Limiter
	caller  *kms.Caller
	omitted int // calls without a record since the last one that tells of them
}

// take reports whether a call of the caller gets a record of its own, or
// counts it.
func (r *refusals) take(c *kms.Caller) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.byUID[c.UID]
	if u == nil {
		u = &refusedUser{limiter: rate.NewLimiter(refusalRate, refusalBurst)}
		if r.byUID == nil {
			r.byUID = map[uint32]*refusedUser{}
		}
		r.byUID[c.UID] = u
	}
	u.caller = c
	if u.limiter.Allow() {
		return true
	}
	u.omitted++
	return false
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
		} else if u.limiter.Tokens() >= refusalBurst {
			delete(r.byUID, uid)
		}
	}
	return found
}

// refused puts a call on record that the socket has refused, and reports
// whether it is; see [socket.Config].
func (d *Daemon) refused(r *http.Request, id, code, message string) bool {
	caller, err := d.identities.Load().caller(r.Context())
	if err != nil && !errors.Is(err, errUnmapped) {
		d.log.ErrorContext(r.Context(), "call without a caller", "error", err)
		return false
	}
	if !d.refusals.take(caller) {
		return d.audit.Err() == nil
	}
	return d.kms.RecordRefusal(r.Context(), caller, kmsapi.NewRequest(r, id), kmsapi.Errorf(code, "%s", message))
}

// flushRefusals records how many calls were refused without a record.
func (d *Daemon) flushRefusals(ctx context.Context) error {
	var errs []error
	for _, u := range d.refusals.drain() {
		errs = append(errs, d.kms.RecordRefusals(ctx, u.caller, u.omitted))
	}
	return errors.Join(errs...)
}
