package pkcs11

import (
	"bytes"
	"context"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// store makes the token objects, the public key first: what a process leaves that ends in
// between is found by the next one, and made again. A private key alone does not say what its
// public key is.
func (a *arrival) store(ctx context.Context, public []byte) error {
	var wrapping cryptoki.Object
	if a.inToken() {
		// Looked for before create takes the lock that looking takes.
		o, err := a.Object(ctx, &a.in.Wrapping, a.wrapping)
		if err != nil {
			return err
		}
		wrapping = o.Handle
	}
	unsized := *a.key // how long it is is for the material to say
	unsized.Length = 0
	id, label := a.in.Key.ID[:], a.Profile.Label(a.in.Label)
	var publicHandle cryptoki.Object
	err := a.create(ctx, &a.in.Key, a.key, a.in.Label, func(s *token.Session) (cryptoki.Object, error) {
		if err := a.removePublic(s, a.in.Key.ID); err != nil {
			return 0, err
		}
		if public != nil {
			var err error
			if publicHandle, err = a.storePublic(s, public); err != nil {
				return 0, err
			}
		}
		h, err := a.make(s, wrapping, a.Profile.CMK(unsized, true, id, label))
		if err != nil && public != nil && !token.MaybeNotKept(err) {
			s.Destroy(publicHandle)
		}
		return h, err
	})
	if err != nil {
		if backends.CodeOf(err) == backends.KeyUnsafe {
			if _, failed := a.destroy(ctx, &a.in.Key, false); failed != nil {
				return backends.Doubt(fmt.Errorf("destroying an imported key that could leave the token: %w", failed))
			}
			a.destroyed = true
		}
		return err
	}
	if public != nil {
		a.Index.Put(token.Ref{ID: a.in.Key.ID, Class: p11.CKO_PUBLIC_KEY}, &token.Object{Handle: publicHandle, Label: a.in.Label})
	}
	return nil
}

// storePublic makes the public key object. CKA_EC_POINT of an Edwards curve is an OCTET
// STRING or the bytes of RFC 8032: PKCS#11 3.1 and 3.0 differ (section 6.3.5), and so do
// modules.
func (a *arrival) storePublic(s *token.Session, encoded []byte) (cryptoki.Object, error) {
	t := a.Profile.PublicTemplate(a.key, true, a.in.Key.ID[:], a.Profile.Label(a.in.Label))
	t, err := publicComponents(a.Profile, a.key.Pair, t, encoded)
	if err != nil {
		return 0, err
	}
	h, rv := s.CreateObject(s.Handle, t)
	if a.key.Pair.Form == der.EdwardsKey && notTaken(rv) {
		point, err := der.SplitPublic(a.key.Pair, encoded)
		if err != nil {
			return 0, err
		}
		h, rv = s.CreateObject(s.Handle, t.Without(p11.CKA_EC_POINT).Bytes(p11.CKA_EC_POINT, point))
	}
	return h, a.created(s, rv)
}

// created makes the error of C_CreateObject. What is refused has been seen to be of its
// kind, so it is the token that does not take such keys.
func (a *arrival) created(s *token.Session, rv uint) error {
	err := s.Check("C_CreateObject", rv)
	if notTaken(rv) {
		return &backends.Error{Code: backends.Unsupported, Message: fmt.Sprintf("C_CreateObject of a key of %s", a.in.Key.Spec), RV: rv}
	}
	return err
}

// notTaken reports whether a token answers so for an object of a kind that it does not take.
func notTaken(rv uint) bool { return token.RefusedTemplate(rv) || rv == p11.CKR_FUNCTION_FAILED }

// same fails unless the key that is in the token already, made by a call whose
// answer got lost, is of the same material.
func (a *arrival) same(ctx context.Context, answer *backends.ImportKeyAnswer) error {
	var value []byte
	switch {
	case a.checksByCMAC():
		return nil // the key itself does no CMAC
	case a.key.Pair != nil:
		public, err := a.publicKey(ctx, &a.in.Key, a.key)
		if err != nil {
			return err
		}
		value = publicCheckValue(public.DER)
	default:
		err := a.WithKey(ctx, &a.in.Key, a.key, func(s *token.Session, h cryptoki.Object) (err error) {
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
