package pkcs11

import (
	"bytes"
	"context"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// store makes the token objects.
func (a *arrival) store(ctx context.Context, public []byte) error {
	var wrapping cryptoki.Object
	if a.inToken() {
		// Looked for before create takes the lock that looking takes.
		o, err := a.object(ctx, &a.in.Wrapping, a.wrapping)
		if err != nil {
			return err
		}
		wrapping = o.handle
	}
	unsized := *a.key // how long it is is for the material to say
	unsized.length = 0
	id, label := a.in.Key.ID[:], []byte(a.in.Label)
	var publicHandle cryptoki.Object
	err := a.create(ctx, &a.in.Key, a.key, a.in.Label, func(s *session) (cryptoki.Object, error) {
		if err := a.removePublic(s, a.in.Key.ID); err != nil {
			return 0, err
		}
		h, err := a.make(s, wrapping, a.profile.cmk(unsized, true, id, label))
		if err != nil || public == nil {
			return h, err
		}
		if publicHandle, err = a.storePublic(s, public); err != nil {
			s.destroy(h)
		}
		return h, err
	})
	if err != nil {
		if backends.CodeOf(err) == backends.KeyUnsafe {
			_, _ = a.destroy(ctx, &a.in.Key) // err says more than a failure to do so
		}
		return err
	}
	if public != nil {
		a.index.put(ref{a.in.Key.ID, p11.CKO_PUBLIC_KEY}, &object{handle: publicHandle, label: a.in.Label})
	}
	return nil
}

// storePublic makes the public key object.
func (a *arrival) storePublic(s *session, der []byte) (cryptoki.Object, error) {
	t := a.profile.publicTemplate(a.key, true, a.in.Key.ID[:], []byte(a.in.Label))
	t, err := a.profile.publicComponents(a.key.pair, t, der)
	if err != nil {
		return 0, err
	}
	h, rv := s.CreateObject(s.handle, t)
	return h, s.check("C_CreateObject", rv)
}

// same fails unless the key that is in the token already, made by a call whose
// answer got lost, is of the same material.
func (a *arrival) same(ctx context.Context, answer *backends.ImportKeyAnswer) error {
	var value []byte
	switch {
	case a.checksByCMAC():
		return nil // the key itself does no CMAC
	case a.key.pair != nil:
		public, err := a.publicKey(ctx, &a.in.Key, a.key)
		if err != nil {
			return err
		}
		value = publicCheckValue(public.der)
	default:
		err := a.withKey(ctx, &a.in.Key, a.key, func(s *session, h cryptoki.Object) (err error) {
			value, err = a.secretCheckValue(s, h)
			return err
		})
		if err != nil {
			return err
		}
	}
	if !bytes.Equal(value, answer.CheckValue) {
		return backends.Errorf(backends.InvalidRequest, "CKA_ID %s has a key of other material", a.in.Key.ID)
	}
	return nil
}
