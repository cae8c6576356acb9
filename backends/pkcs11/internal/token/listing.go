package token

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
	objects map[Ref]*Object
	// keys are cmkd's secret and private keys.
	Keys []backends.Object
	// debris are found at the opening only.
	debris []cryptoki.Object
	aside  []*Object
}

// list reads label, ID and class of every key object in the token; at the
// opening it also looks for debris, and leaves what is another process's
// aside. The caller holds t.change.
func (t *Token) list(s *Session, opening bool) (*listing, error) {
	var template []*p11.Attribute
	if !opening {
		template = append(template, p11.NewAttribute(p11.CKA_TOKEN, true))
	}
	handles, err := t.Search(s, template)
	if err != nil {
		return nil, err
	}
	l := &listing{}
	if opening {
		if handles, err = t.setAside(s, handles, l); err != nil {
			return nil, err
		}
	}
	l.objects = make(map[Ref]*Object, len(handles))
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS)
	q.Ask(p11.CKA_ID, len(backends.KeyID{}))
	q.Ask(p11.CKA_LABEL, 256)
	q.AskBool(p11.CKA_TOKEN)
	for _, h := range handles {
		q.Reset()
		err := s.Attributes(cryptoki.Object(h), &q)
		if StaleHandle(err) { // destroyed since the search, by another process
			s.Broken = false
			continue
		}
		if RVOf(err) == p11.CKR_ATTRIBUTE_VALUE_INVALID {
			// So SoftHSM2 answers for an object whose class or key type was
			// not written yet when its maker was killed. It is nobody's key,
			// and it must not keep the others from being served.
			s.Broken = false
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
func (t *Token) setAside(s *Session, handles []p11.ObjectHandle, l *listing) ([]p11.ObjectHandle, error) {
	if t.Config.Aside == NoKeys {
		return handles, nil
	}
	others, err := t.Search(s, t.Config.Aside.template())
	if err != nil {
		return nil, err
	}
	aside := make(map[p11.ObjectHandle]bool, len(others))
	for _, h := range others {
		aside[h] = true
		if len(l.aside) < maxWitnesses {
			l.aside = append(l.aside, &Object{Handle: cryptoki.Object(h)})
		}
	}
	return slices.DeleteFunc(handles, func(h p11.ObjectHandle) bool { return aside[h] }), nil
}

// Note adds a secret or private key of cmkd's.
func (l *listing) note(r Ref, label string) {
	if r.Class != p11.CKO_PUBLIC_KEY && strings.HasPrefix(label, LabelPrefix) {
		l.Keys = append(l.Keys, backends.Object{ID: r.ID, Label: label})
	}
}

// sorted are the keys in the order of their CKA_ID.
func (l *listing) sorted() []backends.Object {
	for i := range l.Keys {
		l.Keys[i].Duplicate = l.doubled(l.Keys[i].ID)
	}
	slices.SortFunc(l.Keys, func(a, b backends.Object) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return l.Keys
}

// doubled reports whether two objects of any one class have the CKA_ID.
func (l *listing) doubled(id backends.KeyID) bool {
	for class := range UsageAttributes {
		if o := l.objects[Ref{id, class}]; o != nil && o.Duplicate {
			return true
		}
	}
	return false
}

func (l *listing) add(h cryptoki.Object, q *cryptoki.Query) {
	class, ok := q.ULong(p11.CKA_CLASS)
	if !ok || UsageAttributes[class] == nil {
		return
	}
	id, ok := q.Value(p11.CKA_ID)
	if !ok || len(id) != len(backends.KeyID{}) {
		return // not one of ours
	}
	stored, _ := q.Value(p11.CKA_LABEL)
	label := plainLabel(string(stored))
	r := Ref{backends.KeyID(id), class}
	if o := l.objects[r]; o != nil {
		o.Duplicate = true
	} else {
		l.objects[r] = &Object{Handle: h, Label: label}
	}
	l.note(r, label)
}

// Refresh searches the whole token and takes what it finds for the index.
// What is known of objects that are still there is kept. opening: it is the
// first search.
func (t *Token) Refresh(ctx context.Context, opening bool) (*listing, error) {
	if err := t.Change.Lock(ctx); err != nil {
		return nil, err
	}
	defer t.Change.Unlock()
	var l *listing
	look := func(s *Session) (err error) {
		if l, err = t.list(s, opening); err != nil {
			return err
		}
		return t.loggedIn(s)
	}
	var err error
	if opening {
		// The handles of what says to be a session object last as long as
		// the session that found it.
		err = look(&Session{Module: t.Module, Handle: t.Anchor})
	} else {
		err = t.WithSession(ctx, look)
	}
	if err != nil {
		return nil, err
	}
	t.debris = append(t.debris, l.debris...)
	t.Index.mu.Lock()
	defer t.Index.mu.Unlock()
	for r, o := range l.objects {
		if old := t.Index.objects[r]; old != nil && old.Handle == o.Handle && old.Duplicate == o.Duplicate {
			l.objects[r] = old
		}
	}
	t.Index.objects, t.Index.aside = l.objects, l.aside
	l.sorted()
	return l, nil
}

// maxObjects is how many objects a search gives at most: a list that does not end must not fill the memory.
const maxObjects = 1 << 20

// Search is C_FindObjects to the end.
func (t *Token) Search(s *Session, template []*p11.Attribute) ([]p11.ObjectHandle, error) {
	h := p11.SessionHandle(s.Handle)
	if err := t.P11.FindObjectsInit(h, template); err != nil {
		s.Broken = true
		return nil, failure("C_FindObjectsInit", err)
	}
	var all []p11.ObjectHandle
	for {
		some, _, err := t.P11.FindObjects(h, 4096)
		if err != nil {
			s.Broken = true
			return nil, failure("C_FindObjects", err)
		}
		if len(some) == 0 {
			break
		}
		if all = append(all, some...); len(all) > maxObjects {
			s.Broken = true
			return nil, backends.Errorf(backends.Lost, "C_FindObjects gives more than %d objects", maxObjects)
		}
	}
	if err := t.P11.FindObjectsFinal(h); err != nil {
		s.Broken = true
		return nil, failure("C_FindObjectsFinal", err)
	}
	return all, nil
}

// SearchID finds the token objects with a CKA_ID, of one class or (class
// anyClass) of all.
func (t *Token) SearchID(s *Session, id backends.KeyID, class uint) ([]p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_ID, id[:]),
	}
	if class != AnyClass {
		template = append(template, p11.NewAttribute(p11.CKA_CLASS, class))
	}
	return t.Search(s, template)
}

// AnyClass has [Token.SearchID] find objects of every class.
const AnyClass = cryptoki.Unavailable
