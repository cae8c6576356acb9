package token

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

// LabelPrefix marks the objects of cmkd.
const LabelPrefix = "cmkd:"

// Ref names a key object: CKA_ID and CKA_CLASS.
type Ref struct {
	ID    backends.KeyID
	Class uint
}

// Object is a key object of the token.
type Object struct {
	Handle cryptoki.Object
	Label  string
	// duplicate: another object has the same CKA_ID and class.
	Duplicate bool
	// safe is what the attributes were last checked against and found good; nil
	// if not yet.
	Safe atomic.Pointer[Vetting]
	// public is the public key of a private key, once it is known.
	Public atomic.Pointer[der.PublicKey]
	// canary is a ciphertext that the key is known to have made.
	Canary atomic.Pointer[backends.Sealed]
}

// Vetting is what attributes are checked against.
type Vetting struct {
	Purpose  *Purpose
	Imported bool
}

// index remembers where the key objects are: searching a token for a CKA_ID
// takes time in proportion to its objects (SoftHSM2: 100 ms at 10,000).
type index struct {
	mu      sync.RWMutex // guards objects and aside
	objects map[Ref]*Object
	// aside are some of [Config.Aside].
	aside []*Object
	// lost: an object that was known has gone, so nothing that is not found
	// is evidence of anything until the token is opened again.
	lost atomic.Bool
	// doubtful: a creation failed, and tokens have been seen to keep what
	// they said they could not make. Creations search the token from then on.
	Doubtful atomic.Bool
}

// Get returns the object, nil if it is not known.
func (x *index) Get(r Ref) *Object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.objects[r]
}

// Put enters an object.
func (x *index) Put(r Ref, o *Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.objects[r] = o
}

// Drop forgets o, unless it has been replaced since.
func (x *index) Drop(r Ref, o *Object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.objects[r] == o {
		delete(x.objects, r)
	}
}

// witnesses returns some objects that are not of id, for proving that the
// token still has its objects: those first that this process has used. The
// others may be of another plugin, which may have destroyed them.
func (x *index) witnesses(id backends.KeyID) []*Object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var used, others []*Object
	for r, o := range x.objects {
		switch {
		case r.ID == id:
		case o.Safe.Load() != nil:
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

// Keys are cmkd's secret and private keys, ordered by CKA_ID. ok is false if the label of one
// of the objects is not known.
func (x *index) Keys() (keys []backends.Object, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := listing{objects: x.objects}
	for r, o := range x.objects {
		if o.Label == "" {
			return nil, false
		}
		l.note(r, o.Label)
	}
	return l.sorted(), true
}

// Find searches the token for an object that the index does not have.
func (t *Token) Find(ctx context.Context, r Ref) (*Object, error) {
	if err := t.Change.Lock(ctx); err != nil {
		return nil, err
	}
	defer t.Change.Unlock()
	if o := t.Index.Get(r); o != nil {
		return o, nil // found meanwhile
	}
	var handles []p11.ObjectHandle
	err := t.WithSession(ctx, func(s *Session) (err error) {
		handles, err = t.SearchID(s, r.ID, r.Class)
		if err == nil && len(handles) == 0 {
			err = t.missing(s, r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	o := &Object{Handle: cryptoki.Object(handles[0]), Duplicate: len(handles) > 1}
	t.Index.Put(r, o)
	return o, nil
}

// missing is the answer when a search found nothing: [backends.Lost] if the
// token would find nothing at all. Tokens answer a search with CKR_OK and no
// objects after a logout and when their objects have gone away.
func (t *Token) missing(s *Session, r Ref) error {
	if err := t.ProveObjects(s, r); err != nil {
		return err
	}
	return backends.Errorf(backends.KeyMissing, "the token has no object with CKA_ID %s for now", r.ID)
}

// ProveObjects looks at the login and for an object other than r that was there
// before.
func (t *Token) ProveObjects(s *Session, r Ref) error {
	if t.Index.lost.Load() {
		return t.Lose(r.ID)
	}
	if err := t.loggedIn(s); err != nil {
		return err
	}
	witnesses := t.Index.witnesses(r.ID)
	if len(witnesses) == 0 {
		return nil // there never was another
	}
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	var err error
	for _, o := range witnesses {
		if err = s.Attributes(o.Handle, &q); !StaleHandle(err) {
			return err
		}
	}
	return err
}

// Lose is the answer when an object that was known is not found.
func (t *Token) Lose(id backends.KeyID) error {
	t.Index.lost.Store(true)
	return backends.Errorf(backends.Lost, "objects that were in the token are not found (CKA_ID %s)", id)
}

// loggedIn fails unless the session sees private objects.
func (t *Token) loggedIn(s *Session) error {
	info, err := t.P11.GetSessionInfo(p11.SessionHandle(s.Handle))
	if err != nil {
		s.Broken = true
		return failure("C_GetSessionInfo", err)
	}
	if info.State != p11.CKS_RW_USER_FUNCTIONS && info.State != p11.CKS_RO_USER_FUNCTIONS {
		return s.Check("C_GetSessionInfo", p11.CKR_USER_NOT_LOGGED_IN)
	}
	return nil
}

// Object returns a key's object, whose attributes have been checked against its
// purpose once since it was found. The same purpose is the same pointer.
func (t *Token) Object(ctx context.Context, key *backends.Key, u *Purpose) (*Object, error) {
	r := Ref{key.ID, u.Class}
	o := t.Index.Get(r)
	if o == nil {
		var err error
		if o, err = t.Find(ctx, r); err != nil {
			return nil, err
		}
	}
	if o.Duplicate {
		return nil, backends.Errorf(backends.KeyDuplicate, "more than one object has CKA_ID %s", key.ID)
	}
	if safe := o.Safe.Load(); safe != nil && *safe == (Vetting{u, key.Imported}) {
		return o, nil
	}
	return o, t.vet(ctx, key, u, o)
}

// WithKey runs do with a session and the key's handle. If the handle turns out
// to name no object any more (another process changed the token, a cluster is
// still replicating), it is searched for and do repeated, once; then the token
// is [backends.Lost].
func (t *Token) WithKey(ctx context.Context, key *backends.Key, u *Purpose, do func(s *Session, h cryptoki.Object) error) error {
	r := Ref{key.ID, u.Class}
	known := t.Index.Get(r) != nil
	for attempt := 1; ; attempt++ {
		o, err := t.Object(ctx, key, u)
		if err == nil {
			err = t.WithSession(ctx, func(s *Session) error { return do(s, o.Handle) })
		}
		switch {
		case known && attempt > 1 && backends.CodeOf(err) == backends.KeyMissing:
			return t.Lose(key.ID)
		case attempt > 1 || !StaleHandle(err):
			return err
		}
		known = true
		if o = t.Index.Get(r); o != nil {
			t.Index.Drop(r, o)
		}
	}
}

// Forget drops all objects with an ID, and reports whether there was any.
func (x *index) Forget(id backends.KeyID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	known := len(x.objects)
	for class := range UsageAttributes {
		delete(x.objects, Ref{id, class})
	}
	return len(x.objects) < known
}
