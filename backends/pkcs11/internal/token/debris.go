package token

import (
	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
)

// Debris is what a token has kept of a creation during which a process was
// killed, before the object got its CKA_ID: SoftHSM2 writes an object's file
// attribute by attribute, with defaults first. Such an object says that it is
// a session object, has no name and no key material, and is of no use to
// anybody, but it stays in the token for ever.

// Sweep destroys the debris found when the token was opened. It is called
// when an intent of the daemon explains it: a creation that is undone, or that
// is made again. The caller holds t.change.
func (t *Token) Sweep(s *Session) error {
	for len(t.debris) > 0 {
		o := t.debris[len(t.debris)-1]
		// Another process may have been in the middle of its creation then.
		if isDebris(s, o) {
			if err := s.Check("C_DestroyObject", s.DestroyObject(s.Handle, o)); err != nil && !StaleHandle(err) {
				return err
			}
			s.Broken = false
		}
		t.debris = t.debris[:len(t.debris)-1]
	}
	return nil
}

// isDebris reports whether an object is a key without name and material. One
// that does not say so is none.
func isDebris(s *Session, o cryptoki.Object) bool {
	var q cryptoki.Query
	q.AskBool(p11.CKA_TOKEN)
	q.Ask(p11.CKA_ID, 1)
	q.Ask(p11.CKA_LABEL, 1)
	if err := s.Attributes(o, &q); err != nil {
		s.Broken = false // only the handle was bad
		return false
	}
	token, ok := q.Bool(p11.CKA_TOKEN)
	return ok && !token && empty(&q, p11.CKA_ID) && empty(&q, p11.CKA_LABEL) && unfinished(s, o)
}

// unfinished reports whether a key object says that it has no key material,
// which is written last.
func unfinished(s *Session, o cryptoki.Object) bool {
	var q cryptoki.Query
	q.AskULong(p11.CKA_CLASS, p11.CKA_VALUE_LEN)
	q.Ask(p11.CKA_EC_PARAMS, 1)
	q.Ask(p11.CKA_MODULUS, 1)
	if err := s.Attributes(o, &q); err != nil {
		s.Broken = false // only the handle was bad
		return false
	}
	switch class, _ := q.ULong(p11.CKA_CLASS); class {
	case p11.CKO_SECRET_KEY:
		n, ok := q.ULong(p11.CKA_VALUE_LEN)
		return ok && n == 0
	case p11.CKO_PUBLIC_KEY, p11.CKO_PRIVATE_KEY:
		return empty(&q, p11.CKA_EC_PARAMS) || empty(&q, p11.CKA_MODULUS)
	default:
		return false
	}
}

// empty reports whether the object has the attribute, with no value.
func empty(q *cryptoki.Query, attribute uint) bool {
	v, ok := q.Value(attribute)
	return ok && len(v) == 0
}
