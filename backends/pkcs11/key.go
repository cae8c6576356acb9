package pkcs11

import (
	"context"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// createSecret generates a secret key as a token object, unless it is there.
// Keys belong to one process, so the index knows whether it is.
func (t *Token) createSecret(ctx context.Context, in *backends.CreateKeyRequest, u *purpose) (*backends.CreateKeyAnswer, error) {
	if existed, err := t.exists(ctx, &in.Key, u); err != nil || existed {
		return &backends.CreateKeyAnswer{Existed: true}, err
	}
	return &backends.CreateKeyAnswer{}, t.create(ctx, &in.Key, u, in.Label, func(s *session) (cryptoki.Object, error) {
		m := cryptoki.Mechanism{Type: generators[u.keyType]}
		h, rv := s.GenerateKey(s.handle, m, t.profile.cmk(*u, true, in.Key.ID[:], []byte(in.Label)))
		return h, s.check("C_GenerateKey", rv)
	})
}

// exists reports whether a key is in the token, with the attributes of its
// purpose.
func (t *Token) exists(ctx context.Context, key *backends.Key, u *purpose) (bool, error) {
	if t.index.get(ref{key.ID, u.class}) == nil {
		return false, nil
	}
	_, err := t.object(ctx, key, u)
	return err == nil, err
}

// create makes a token object by calling do, which returns its handle, reads
// its attributes back, and enters it in the index. An object that is not as
// its purpose wants it is destroyed again.
func (t *Token) create(ctx context.Context, key *backends.Key, u *purpose, label string, do func(s *session) (cryptoki.Object, error)) error {
	if err := t.change.lock(ctx); err != nil {
		return err
	}
	defer t.change.unlock()
	return t.withSession(ctx, func(s *session) error {
		h, err := do(s)
		if err != nil {
			return err
		}
		if err := t.profile.readBack(s, h, *u, key.Imported); err != nil {
			if backends.CodeOf(err) == backends.KeyUnsafe {
				s.DestroyObject(s.handle, h) // err says more than a failure to do so
			}
			return err
		}
		o := &object{handle: h, label: label}
		o.safe.Store(&vetting{u, key.Imported})
		t.index.put(ref{key.ID, u.class}, o)
		return nil
	})
}

// checkSecret reads a secret key's attributes back now.
func (t *Token) checkSecret(ctx context.Context, key *backends.Key, u *purpose) error {
	return t.withKey(ctx, key, u, func(s *session, h cryptoki.Object) error {
		return t.profile.readBack(s, h, *u, key.Imported)
	})
}

// destroy removes every object with the key's CKA_ID, of whatever class, and
// searches again to prove that none is left.
func (t *Token) destroy(ctx context.Context, key *backends.Key) (*backends.DestroyKeyAnswer, error) {
	if err := t.change.lock(ctx); err != nil {
		return nil, err
	}
	defer t.change.unlock()
	answer := &backends.DestroyKeyAnswer{}
	err := t.withSession(ctx, func(s *session) error {
		handles, err := t.searchID(s, key.ID, anyClass)
		if err != nil {
			return err
		}
		t.index.forget(key.ID)
		for _, h := range handles {
			if err := s.check("C_DestroyObject", s.DestroyObject(s.handle, cryptoki.Object(h))); err != nil {
				return err
			}
			answer.Objects++
		}
		left := 0
		if len(handles) > 0 {
			if handles, err = t.searchID(s, key.ID, anyClass); err != nil {
				return err
			}
			left = len(handles)
		}
		if left > 0 {
			return backends.Errorf(backends.Internal, "%d objects with CKA_ID %s are left after C_DestroyObject", left, key.ID)
		}
		return t.proveObjects(s, ref{id: key.ID})
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// forget drops all objects with an ID.
func (x *index) forget(id backends.KeyID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for class := range usageAttributes {
		delete(x.objects, ref{id, class})
	}
}

// ListKeys implements [backends.Backend] for every kind of key. It searches
// the whole token, so keys that were added or doubled by others are noticed.
func (t *Token) ListKeys(ctx context.Context, _ *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	l, err := t.refresh(ctx)
	if err != nil {
		return nil, err
	}
	return &backends.ListKeysAnswer{Objects: l.keys}, nil
}

// DestroyKey implements [backends.Backend] for every kind of key.
func (t *Token) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return t.destroy(ctx, &in.Key)
}

// infoAnswer answers for a backend of the given specs.
func (t *Token) infoAnswer(specs []backends.SpecInfo) *backends.InfoAnswer {
	return &backends.InfoAnswer{Specs: specs, Token: t.tokenInfo(), Facts: t.profile.Facts()}
}
