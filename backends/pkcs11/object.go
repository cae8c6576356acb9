package pkcs11

import (
	"bytes"
	"context"
	"slices"
	"strings"
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

// listing is what a search over the whole token found.
type listing struct {
	objects map[ref]*object
	// keys are cmkd's secret and private keys.
	keys []backends.Object
	// debris are found at the opening only.
	debris []cryptoki.Object
	aside  []*object
}

// list reads label, ID and class of every key object in the token; at the
// opening it also looks for debris, and leaves what is another process's
// aside. The caller holds t.change.
func (t *Token) list(s *session, opening bool) (*listing, error) {
	var template []*p11.Attribute
	if !opening {
		template = append(template, p11.NewAttribute(p11.CKA_TOKEN, true))
	}
	handles, err := t.search(s, template)
	if err != nil {
		return nil, err
	}
	l := &listing{}
	if opening {
		if handles, err = t.setAside(s, handles, l); err != nil {
			return nil, err
		}
	}
	l.objects = make(map[ref]*object, len(handles))
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	q.Ask(p11.CKA_ID, len(backends.KeyID{}))
	q.Ask(p11.CKA_LABEL, 256)
	q.AskBool(p11.CKA_TOKEN)
	for _, h := range handles {
		q.Reset()
		err := s.attributes(cryptoki.Object(h), &q)
		if staleHandle(err) { // destroyed since the search, by another process
			s.broken = false
			continue
		}
		if rvOf(err) == p11.CKR_ATTRIBUTE_VALUE_INVALID {
			// So SoftHSM2 answers for an object whose class or key type was
			// not written yet when its maker was killed. It is nobody's key,
			// and it must not keep the others from being served.
			s.broken = false
			continue
		}
		if err != nil {
			return nil, err
		}
		if token, ok := q.Bool(p11.CKA_TOKEN); ok && !token {
			if isDebris(s, cryptoki.Object(h)) {
				l.debris = append(l.debris, cryptoki.Object(h))
			}
			continue
		}
		l.add(cryptoki.Object(h), &q)
	}
	return l, nil
}

// setAside takes those out of handles that are [Config.Aside].
func (t *Token) setAside(s *session, handles []p11.ObjectHandle, l *listing) ([]p11.ObjectHandle, error) {
	if t.cfg.Aside == NoKeys {
		return handles, nil
	}
	others, err := t.search(s, t.cfg.Aside.template())
	if err != nil {
		return nil, err
	}
	aside := make(map[p11.ObjectHandle]bool, len(others))
	for _, h := range others {
		aside[h] = true
		if len(l.aside) < maxWitnesses {
			l.aside = append(l.aside, &object{handle: cryptoki.Object(h)})
		}
	}
	return slices.DeleteFunc(handles, func(h p11.ObjectHandle) bool { return aside[h] }), nil
}

// note adds a secret or private key of cmkd's.
func (l *listing) note(r ref, label string) {
	if r.class != p11.CKO_PUBLIC_KEY && strings.HasPrefix(label, labelPrefix) {
		l.keys = append(l.keys, backends.Object{ID: r.id, Label: label})
	}
}

// sorted are the keys in the order of their CKA_ID.
func (l *listing) sorted() []backends.Object {
	for i := range l.keys {
		l.keys[i].Duplicate = l.doubled(l.keys[i].ID)
	}
	slices.SortFunc(l.keys, func(a, b backends.Object) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return l.keys
}

// doubled reports whether two objects of any one class have the CKA_ID.
func (l *listing) doubled(id backends.KeyID) bool {
	for class := range usageAttributes {
		if o := l.objects[ref{id, class}]; o != nil && o.duplicate {
			return true
		}
	}
	return false
}

func (l *listing) add(h cryptoki.Object, q *cryptoki.Query) {
	class, ok := q.ULong(p11.CKA_CLASS)
	if !ok || usageAttributes[class] == nil {
		return
	}
	id, ok := q.Value(p11.CKA_ID)
	if !ok || len(id) != len(backends.KeyID{}) {
		return // not one of ours
	}
	stored, _ := q.Value(p11.CKA_LABEL)
	label := plainLabel(string(stored))
	r := ref{backends.KeyID(id), class}
	if o := l.objects[r]; o != nil {
		o.duplicate = true
	} else {
		l.objects[r] = &object{handle: h, label: label}
	}
	l.note(r, label)
}

// refresh searches the whole token and takes what it finds for the index.
// What is known of objects that are still there is kept. opening: it is the
// first search.
func (t *Token) refresh(ctx context.Context, opening bool) (*listing, error) {
	if err := t.change.lock(ctx); err != nil {
		return nil, err
	}
	defer t.change.unlock()
	var l *listing
	look := func(s *session) (err error) {
		if l, err = t.list(s, opening); err != nil {
			return err
		}
		return t.loggedIn(s)
	}
	var err error
	if opening {
		// The handles of what says to be a session object last as long as
		// the session that found it.
		err = look(&session{Module: t.module, handle: t.anchor})
	} else {
		err = t.withSession(ctx, look)
	}
	if err != nil {
		return nil, err
	}
	t.debris = append(t.debris, l.debris...)
	t.index.mu.Lock()
	defer t.index.mu.Unlock()
	for r, o := range l.objects {
		if old := t.index.objects[r]; old != nil && old.handle == o.handle && old.duplicate == o.duplicate {
			l.objects[r] = old
		}
	}
	t.index.objects, t.index.aside = l.objects, l.aside
	l.sorted()
	return l, nil
}

// search is C_FindObjects to the end.
func (t *Token) search(s *session, template []*p11.Attribute) ([]p11.ObjectHandle, error) {
	h := p11.SessionHandle(s.handle)
	if err := t.ctx.FindObjectsInit(h, template); err != nil {
		s.broken = true
		return nil, failure("C_FindObjectsInit", err)
	}
	var all []p11.ObjectHandle
	for {
		some, _, err := t.ctx.FindObjects(h, 4096)
		if err != nil {
			s.broken = true
			return nil, failure("C_FindObjects", err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := t.ctx.FindObjectsFinal(h); err != nil {
		s.broken = true
		return nil, failure("C_FindObjectsFinal", err)
	}
	return all, nil
}

// searchID finds the token objects with a CKA_ID, of one class or (class
// anyClass) of all.
func (t *Token) searchID(s *session, id backends.KeyID, class uint) ([]p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, id[:]),
	}
	if class != anyClass {
		template = append(template, p11.NewAttribute(p11.CKA_CLASS, class))
	}
	return t.search(s, template)
}

const anyClass = cryptoki.Unavailable

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
