package pkcs11

import (
	"cmp"
	"context"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// wrappingPurpose returns what a wrapping pair for imports is in the token.
// Every kind of backend has such pairs.
func (t *Token) wrappingPurpose(key *backends.Key) (*purpose, error) {
	k := kind{key.Spec, key.Usage}
	if u := t.profile.wrapping[k]; u != nil {
		return u, nil
	}
	if err := t.profile.wrappingRefused[k]; err != nil {
		return nil, err
	}
	return nil, noSuchPair(k)
}

// createPair generates a key pair as token objects, unless it is there. The
// two have the same CKA_ID. Pairs are generated one at a time.
func (t *Token) createPair(ctx context.Context, in *backends.CreateKeyRequest, u *purpose) (*backends.CreateKeyAnswer, error) {
	if err := t.pairs.lock(ctx); err != nil {
		return nil, err
	}
	defer t.pairs.unlock()
	return persist(ctx, t, func(unsure bool) (*backends.CreateKeyAnswer, error) {
		out, err := t.createPairOnce(ctx, in, u, unsure)
		return out, t.spent(ctx, in.Key.ID, err)
	}, func(failed error) error { return t.judgePair(ctx, u, failed) })
}

// judgePair is verdict for a pair. A token that does other things, and fails to make a pair
// that goes with its session in the same way, makes no such pairs: the probe makes none of
// RSA-3072 and RSA-4096, which take long.
func (t *Token) judgePair(ctx context.Context, u *purpose, failed error) error {
	err := t.withSession(ctx, func(s *session) error {
		public, private, rv := s.GenerateKeyPair(s.handle, cryptoki.Mechanism{Type: u.pair.Mechanism},
			t.profile.generation(u.pair, t.profile.publicTemplate(u, false, nil, nil)), t.profile.cmk(*u, false, nil, nil))
		if rv == p11.CKR_OK {
			s.destroy(private, public)
		}
		return s.check("C_GenerateKeyPair", rv)
	})
	if err == nil || rvOf(err) != rvOf(failed) {
		return verdict(failed, err)
	}
	lacking := &backends.Error{Code: backends.Unsupported, Message: u.pair.Name, RV: rvOf(failed)}
	if u.pair.Form == der.RSAKey {
		lacking.Message = pairsOf(u.pair.Bits)
	}
	return lacking
}

func (t *Token) createPairOnce(ctx context.Context, in *backends.CreateKeyRequest, u *purpose, unsure bool) (*backends.CreateKeyAnswer, error) {
	existed, err := t.exists(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	if existed {
		public, err := t.publicKey(ctx, &in.Key, u)
		if err != nil {
			return nil, err
		}
		return &backends.CreateKeyAnswer{PublicKey: public.DER, Existed: true}, nil
	}
	if err := t.mayMake(); err != nil {
		return nil, err
	}
	id, label := in.Key.ID[:], t.profile.label(in.Label)
	var encoded []byte
	var public cryptoki.Object
	err = t.create(ctx, &in.Key, u, in.Label, func(s *session) (cryptoki.Object, error) {
		if err := t.removePublic(s, in.Key.ID); err != nil {
			return 0, err
		}
		var private cryptoki.Object
		var rv uint
		public, private, rv = s.GenerateKeyPair(s.handle, cryptoki.Mechanism{Type: u.pair.Mechanism},
			t.profile.generation(u.pair, t.profile.publicTemplate(u, true, id, label)), t.profile.cmk(*u, true, id, label))
		if err := s.check("C_GenerateKeyPair", rv); err != nil {
			return 0, pairRefused(u.pair, err)
		}
		var err error
		if t.profile.lasting {
			if err = cmp.Or(s.is(public, p11.CKO_PUBLIC_KEY, id), s.is(private, p11.CKO_PRIVATE_KEY, id)); err != nil {
				return 0, err // and nothing is destroyed
			}
		}
		if encoded, err = s.publicKey(u.pair, public); err != nil {
			s.destroy(private, public)
		}
		return private, err
	})
	if err != nil {
		if backends.CodeOf(err) == backends.KeyUnsafe {
			_, _ = t.destroy(ctx, &in.Key, false) // err says more than a failure to do so
		}
		return nil, err
	}
	t.index.put(ref{in.Key.ID, p11.CKO_PUBLIC_KEY}, &object{handle: public, label: in.Label})
	return &backends.CreateKeyAnswer{PublicKey: encoded, Unsure: unsure}, nil
}

// removePublic destroys public keys that an interrupted creation left without
// their private key. The caller holds t.change.
func (t *Token) removePublic(s *session, id backends.KeyID) error {
	r := ref{id, p11.CKO_PUBLIC_KEY}
	o := t.index.get(r)
	if o == nil && !t.index.doubtful.Load() {
		return nil
	}
	handles, err := t.searchID(s, id, p11.CKO_PUBLIC_KEY)
	if err != nil {
		return err
	}
	for _, h := range handles {
		if err := s.check("C_DestroyObject", s.DestroyObject(s.handle, cryptoki.Object(h))); err != nil {
			return err
		}
	}
	t.index.drop(r, o)
	return nil
}

// checkPair reads the attributes of a private key now.
func (t *Token) checkPair(ctx context.Context, in *backends.CheckKeyRequest, u *purpose) (*backends.CheckKeyAnswer, error) {
	err := t.withKey(ctx, &in.Key, u, func(s *session, h cryptoki.Object) error {
		return t.profile.readBack(s, h, *u, in.Key.Imported)
	})
	if err != nil {
		return nil, err
	}
	public, err := t.publicKey(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	return &backends.CheckKeyAnswer{PublicKey: public.DER}, nil
}

// publicKey returns the public key of a pair. It is read and parsed once for
// each private key object.
func (t *Token) publicKey(ctx context.Context, key *backends.Key, u *purpose) (*der.PublicKey, error) {
	o, err := t.object(ctx, key, u)
	if err != nil {
		return nil, err
	}
	if k := o.public.Load(); k != nil {
		return k, nil
	}
	encoded, err := t.readPublic(ctx, key, u)
	if err != nil {
		return nil, err
	}
	k, err := der.ParsePublic(key.Spec, encoded)
	if err != nil {
		return nil, backends.Errorf(backends.KeyUnsafe, "the public key in the token is not one of spec %s: %v", key.Spec, err)
	}
	o.public.Store(k)
	return k, nil
}

// readPublic finds out the public key that belongs to a private key: by the
// attributes of an RSA private key, which cannot be another's, else by the
// public key object, else by two signatures.
func (t *Token) readPublic(ctx context.Context, key *backends.Key, u *purpose) ([]byte, error) {
	if u.pair.Form == der.RSAKey {
		if encoded, err := t.rsaPublic(ctx, key, u); err != nil || encoded != nil {
			return encoded, err
		}
	}
	var encoded []byte
	err := t.withObject(ctx, ref{key.ID, p11.CKO_PUBLIC_KEY}, func(s *session, h cryptoki.Object) (err error) {
		encoded, err = s.publicKey(u.pair, h)
		return err
	})
	if backends.CodeOf(err) == backends.KeyMissing {
		return t.recoverPublic(ctx, key, u)
	}
	return encoded, err
}

// withObject runs do with a session and the handle of an object that is not
// held against any purpose: a public key. A stale handle is searched for again,
// once.
func (t *Token) withObject(ctx context.Context, r ref, do func(s *session, h cryptoki.Object) error) error {
	for attempt := 1; ; attempt++ {
		o := t.index.get(r)
		if o == nil {
			var err error
			if o, err = t.find(ctx, r); err != nil {
				return err
			}
		}
		if o.duplicate {
			return backends.Errorf(backends.KeyDuplicate, "more than one object of a class has CKA_ID %s", r.id)
		}
		err := t.withSession(ctx, func(s *session) error { return do(s, o.handle) })
		if attempt > 1 || !staleHandle(err) {
			return err
		}
		t.index.drop(r, o)
	}
}

// rsaPublic reads the public key from the private one. It returns nothing if
// the token does not give it.
func (t *Token) rsaPublic(ctx context.Context, key *backends.Key, u *purpose) (encoded []byte, err error) {
	err = t.withKey(ctx, key, u, func(s *session, h cryptoki.Object) error {
		encoded, err = s.rsaPrivatePublic(u.pair, h)
		return err
	})
	return encoded, err
}

// rsaPrivatePublic returns the SubjectPublicKeyInfo of an RSA private key,
// nothing if it has no CKA_PUBLIC_EXPONENT.
func (s *session) rsaPrivatePublic(k *der.Kind, private cryptoki.Object) ([]byte, error) {
	var q cryptoki.Query
	q.Ask(p11.CKA_MODULUS, maxModulus)
	q.Ask(p11.CKA_PUBLIC_EXPONENT, maxModulus) // imported ones have any length
	if err := s.attributes(private, &q); err != nil {
		return nil, err
	}
	if e, ok := q.Value(p11.CKA_PUBLIC_EXPONENT); !ok || len(e) == 0 {
		return nil, nil
	}
	return rsaPublicKey(&q, int(k.Bits))
}

// recoverPublic recovers the public key of a pair whose public key object is
// missing. Only ECDSA gives it away.
func (t *Token) recoverPublic(ctx context.Context, key *backends.Key, u *purpose) ([]byte, error) {
	if key.Usage != backends.SignVerify || u.pair.Form != der.ECKey {
		return nil, backends.Errorf(backends.KeyMissing, "the token has no public key with CKA_ID %s for now", key.ID)
	}
	var encoded []byte
	t.note(key.ID, false)
	err := t.withKey(ctx, key, u, func(s *session, h cryptoki.Object) (err error) {
		encoded, err = s.recoverPublic(u.pair, h)
		return err
	})
	return encoded, err
}
