package pkcs11

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// labelPrefix marks the objects of cmkd.
const labelPrefix = "cmkd:"

// ref names a key object: CKA_ID and CKA_CLASS.
type ref struct {
	id    backends.KeyID
	class uint
}

// object is a key object of the token.
type object struct {
	handle cryptoki.Object
	label  string
	// duplicate: another object has the same CKA_ID and class.
	duplicate bool
	// safe is what the attributes were last held against and found good; nil
	// if not yet.
	safe atomic.Pointer[vetting]
	// public is the public key of a private key, once it is known.
	public atomic.Pointer[der.PublicKey]
	// canary is a ciphertext that the key is known to have made.
	canary atomic.Pointer[backends.Sealed]
}

// vetting is what attributes are held against.
type vetting struct {
	purpose  *purpose
	imported bool
}

// index remembers where the key objects are: searching a token for a CKA_ID
// takes time in proportion to its objects (SoftHSM2: 100 ms at 10,000).
type index struct {
	mu      sync.RWMutex // guards objects and aside
	objects map[ref]*object
	// aside are some of [Config.Aside].
	aside []*object
	// lost: an object that was known has gone, so nothing that is not found
	// is evidence of anything until the token is opened anew.
	lost atomic.Bool
	// doubtful: a creation failed, and tokens have been seen to keep what
	// they said they could not make. Creations search the token from then on.
	doubtful atomic.Bool
}

func (x *index) get(r ref) *object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.objects[r]
}

func (x *index) put(r ref, o *object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.objects[r] = o
}

// drop forgets o, unless it has been replaced since.
func (x *index) drop(r ref, o *object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.objects[r] == o {
		delete(x.objects, r)
	}
}

// witnesses returns some objects that are not of id, for proving that the
// token still has its objects: those first that this process has used. The
// others may be of another plugin, which may have destroyed them.
func (x *index) witnesses(id backends.KeyID) []*object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var used, others []*object
	for r, o := range x.objects {
		switch {
		case r.id == id:
		case o.safe.Load() != nil:
			used = append(used, o)
		case len(others) < maxWitnesses:
			others = append(others, o)
		}
		if len(used) == maxWitnesses {
			break
		}
	}
	return slices.Concat(used, others, x.aside)
}

// maxWitnesses are enough objects of each kind to ask.
const maxWitnesses = 8

// keys are cmkd's secret and private keys, ordered by CKA_ID. ok is false if the label of one
// of the objects is not known.
func (x *index) keys() (keys []backends.Object, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := listing{objects: x.objects}
	for r, o := range x.objects {
		if o.label == "" {
			return nil, false
		}
		l.note(r, o.label)
	}
	return l.sorted(), true
}

// find searches the token for an object that the index does not have.
func (t *Token) find(ctx context.Context, r ref) (*object, error) {
	if err := t.change.lock(ctx); err != nil {
		return nil, err
	}
	defer t.change.unlock()
	if o := t.index.get(r); o != nil {
		return o, nil // found meanwhile
	}
	var handles []p11.ObjectHandle
	err := t.withSession(ctx, func(s *session) (err error) {
		handles, err = t.searchID(s, r.id, r.class)
		if err == nil && len(handles) == 0 {
			err = t.missing(s, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	o := &object{handle: cryptoki.Object(handles[0]), duplicate: len(handles) > 1}
	t.index.put(r, o)
	return o, nil
}

// missing is the answer when a search found nothing: [backends.Lost] if the
// token would find nothing at all. Tokens answer a search with CKR_OK and no
// objects after a logout and when their objects have gone away.
func (t *Token) missing(s *session, r ref) error {
	if err := t.proveObjects(s, r); err != nil {
		return err
	}
	return backends.Errorf(backends.KeyMissing, "the token has no object with CKA_ID %s for now", r.id)
}

// proveObjects looks at the login and for an object other than r that was there
// before.
func (t *Token) proveObjects(s *session, r ref) error {
	if t.index.lost.Load() {
		return t.lose(r.id)
	}
	if err := t.loggedIn(s); err != nil {
		return err
	}
	witnesses := t.index.witnesses(r.id)
	if len(witnesses) == 0 {
		return nil // there never was another
	}
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	var err error
	for _, o := range witnesses {
		if err = s.attributes(o.handle, &q); !staleHandle(err) {
			return err
		}
	}
	return err
}

// lose is the answer when an object that was known is not found.
func (t *Token) lose(id backends.KeyID) error {
	t.index.lost.Store(true)
	return backends.Errorf(backends.Lost, "objects that were in the token are not found (CKA_ID %s)", id)
}

// loggedIn fails unless the session sees private objects.
func (t *Token) loggedIn(s *session) error {
	info, err := t.ctx.GetSessionInfo(p11.SessionHandle(s.handle))
	if err != nil {
		s.broken = true
		return failure("C_GetSessionInfo", err)
	}
	if info.State != p11.CKS_RW_USER_FUNCTIONS && info.State != p11.CKS_RO_USER_FUNCTIONS {
		return s.check("C_GetSessionInfo", p11.CKR_USER_NOT_LOGGED_IN)
	}
	return nil
}

// object returns a key's object, whose attributes have been held against its
// purpose once since it was found. The same purpose is the same pointer.
func (t *Token) object(ctx context.Context, key *backends.Key, u *purpose) (*object, error) {
	r := ref{key.ID, u.class}
	o := t.index.get(r)
	if o == nil {
		var err error
		if o, err = t.find(ctx, r); err != nil {
			return nil, err
		}
	}
	if o.duplicate {
		return nil, backends.Errorf(backends.KeyDuplicate, "more than one object has CKA_ID %s", key.ID)
	}
	if safe := o.safe.Load(); safe != nil && *safe == (vetting{u, key.Imported}) {
		return o, nil
	}
	return o, t.vet(ctx, key, u, o)
}

// withKey runs do with a session and the key's handle. If the handle turns out
// to name no object any more (another process changed the token, a cluster is
// still replicating), it is searched for and do repeated, once; then the token
// is [backends.Lost].
func (t *Token) withKey(ctx context.Context, key *backends.Key, u *purpose, do func(s *session, h cryptoki.Object) error) error {
	r := ref{key.ID, u.class}
	known := t.index.get(r) != nil
	for attempt := 1; ; attempt++ {
		o, err := t.object(ctx, key, u)
		if err == nil {
			err = t.withSession(ctx, func(s *session) error { return do(s, o.handle) })
		}
		switch {
		case known && attempt > 1 && backends.CodeOf(err) == backends.KeyMissing:
			return t.lose(key.ID)
		case attempt > 1 || !staleHandle(err):
			return err
		}
		known = true
		if o = t.index.get(r); o != nil {
			t.index.drop(r, o)
		}
	}
}
