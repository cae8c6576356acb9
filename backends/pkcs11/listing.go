package pkcs11

import (
	"bytes"
	"context"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

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
