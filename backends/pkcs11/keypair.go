package pkcs11

import (
	"cmp"
	"context"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// wrappingPurpose returns what a wrapping pair for imports is in the token.
// Every kind of backend has such pairs.
func (t *Token) wrappingPurpose(key *backends.Key) (*token.Purpose, error) {
	k := token.Kind{Spec: key.Spec, Usage: key.Usage}
	if u := t.Profile.Wrapping[k]; u != nil {
		return u, nil
	}
	if err := t.Profile.WrappingRefused[k]; err != nil {
		return nil, err
	}
	return nil, token.NoSuchPair(k)
}

// createPair generates a key pair as token objects, unless it is there. The
// two have the same CKA_ID. Pairs are generated one at a time.
func (t *Token) createPair(ctx context.Context, in *backends.CreateKeyRequest, u *token.Purpose) (*backends.CreateKeyAnswer, error) {
	if err := t.Pairs.Lock(ctx); err != nil {
		return nil, err
	}
	defer t.Pairs.Unlock()
	return token.Persist(ctx, t.Token, func(unsure bool) (*backends.CreateKeyAnswer, error) {
		out, err := t.createPairOnce(ctx, in, u, unsure)
		return out, t.Spent(ctx, in.Key.ID, err)
	}, func(failed error) error { return t.judgePair(ctx, u, failed) })
}

// judgePair is verdict for a pair. A token that does other things, and fails to make a pair
// that goes with its session in the same way, makes no such pairs: the probe makes none of
// RSA-3072 and RSA-4096, which take long.
func (t *Token) judgePair(ctx context.Context, u *token.Purpose, failed error) error {
	err := t.WithSession(ctx, func(s *token.Session) error {
		public, private, rv := s.GenerateKeyPair(s.Handle, cryptoki.Mechanism{Type: u.Pair.Mechanism},
			t.Profile.Generation(u.Pair, t.Profile.PublicTemplate(u, false, nil, nil)), t.Profile.CMK(*u, false, nil, nil))
		if rv == p11.CKR_OK {
			s.Destroy(private, public)
		}
		return s.Check("C_GenerateKeyPair", rv)
	})
	if err == nil || token.RVOf(err) != token.RVOf(failed) {
		return token.Verdict(failed, err)
	}
	lacking := &backends.Error{Code: backends.Unsupported, Message: u.Pair.Name, RV: token.RVOf(failed)}
	if u.Pair.Form == der.RSAKey {
		lacking.Message = probe.PairsOf(u.Pair.Bits)
	}
	return lacking
}

func (t *Token) createPairOnce(ctx context.Context, in *backends.CreateKeyRequest, u *token.Purpose, unsure bool) (*backends.CreateKeyAnswer, error) {
	existed, err := t.exists(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	if existed {
		public, err := t.publicKey(ctx, &in.Key, u)
		if err != nil {
			return nil, backends.Doubt(err)
		}
		return &backends.CreateKeyAnswer{PublicKey: public.DER, Existed: true}, nil
	}
	if err := t.MayMake(); err != nil {
		return nil, err
	}
	id, label := in.Key.ID[:], t.Profile.Label(in.Label)
	var encoded []byte
	var public cryptoki.Object
	err = t.create(ctx, &in.Key, u, in.Label, func(s *token.Session) (cryptoki.Object, error) {
		if err := t.removePublic(s, in.Key.ID); err != nil {
			return 0, err
		}
		var private cryptoki.Object
		var rv uint
		public, private, rv = s.GenerateKeyPair(s.Handle, cryptoki.Mechanism{Type: u.Pair.Mechanism},
			t.Profile.Generation(u.Pair, t.Profile.PublicTemplate(u, true, id, label)), t.Profile.CMK(*u, true, id, label))
		if err := s.Check("C_GenerateKeyPair", rv); err != nil {
			return 0, token.PairRefused(u.Pair, err)
		}
		var err error
		if t.Profile.Lasting {
			if err = cmp.Or(s.Is(public, p11.CKO_PUBLIC_KEY, id), s.Is(private, p11.CKO_PRIVATE_KEY, id)); err != nil {
				return 0, err // and nothing is destroyed
			}
		}
		if encoded, err = s.PublicKey(u.Pair, public); err != nil {
			s.Destroy(private, public)
		}
		return private, err
	})
	if err != nil {
		if backends.CodeOf(err) == backends.KeyUnsafe {
			_, _ = t.destroy(ctx, &in.Key, false) // err says more than a failure to do so
		}
		return nil, err
	}
	t.Index.Put(token.Ref{ID: in.Key.ID, Class: p11.CKO_PUBLIC_KEY}, &token.Object{Handle: public, Label: in.Label})
	return &backends.CreateKeyAnswer{PublicKey: encoded, Unsure: unsure}, nil
}

// removePublic destroys public keys that an interrupted creation left without
// their private key. The caller holds t.change.
func (t *Token) removePublic(s *token.Session, id backends.KeyID) error {
	r := token.Ref{ID: id, Class: p11.CKO_PUBLIC_KEY}
	o := t.Index.Get(r)
	if o == nil && !t.Index.Doubtful.Load() {
		return nil
	}
	handles, err := t.SearchID(s, id, p11.CKO_PUBLIC_KEY)
	if err != nil {
		return err
	}
	for _, h := range handles {
		if err := s.Check("C_DestroyObject", s.DestroyObject(s.Handle, cryptoki.Object(h))); err != nil {
			return err
		}
	}
	t.Index.Drop(r, o)
	return nil
}

// checkPair reads the attributes of a private key now.
func (t *Token) checkPair(ctx context.Context, in *backends.CheckKeyRequest, u *token.Purpose) (*backends.CheckKeyAnswer, error) {
	err := t.WithKey(ctx, &in.Key, u, func(s *token.Session, h cryptoki.Object) error {
		return t.Profile.ReadBack(s, h, *u, in.Key.Imported)
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

// PublicKey returns the public key of a pair. It is read and parsed once for
// each private key object.
func (t *Token) publicKey(ctx context.Context, key *backends.Key, u *token.Purpose) (*der.PublicKey, error) {
	o, err := t.Object(ctx, key, u)
	if err != nil {
		return nil, err
	}
	if k := o.Public.Load(); k != nil {
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
	o.Public.Store(k)
	return k, nil
}

// readPublic finds out the public key that belongs to a private key: by the
// attributes of an RSA private key, which cannot be another's, else by the
// public key object, else by two signatures.
func (t *Token) readPublic(ctx context.Context, key *backends.Key, u *token.Purpose) ([]byte, error) {
	if u.Pair.Form == der.RSAKey {
		if encoded, err := t.rsaPublic(ctx, key, u); err != nil || encoded != nil {
			return encoded, err
		}
	}
	var encoded []byte
	err := t.withObject(ctx, token.Ref{ID: key.ID, Class: p11.CKO_PUBLIC_KEY}, func(s *token.Session, h cryptoki.Object) (err error) {
		encoded, err = s.PublicKey(u.Pair, h)
		return err
	})
	if backends.CodeOf(err) == backends.KeyMissing {
		return t.recoverPublic(ctx, key, u)
	}
	return encoded, err
}

// withObject runs do with a session and the handle of an object that is not
// checked against any purpose: a public key. A stale handle is searched for again,
// once.
func (t *Token) withObject(ctx context.Context, r token.Ref, do func(s *token.Session, h cryptoki.Object) error) error {
	for attempt := 1; ; attempt++ {
		o := t.Index.Get(r)
		if o == nil {
			var err error
			if o, err = t.Find(ctx, r); err != nil {
				return err
			}
		}
		if o.Duplicate {
			return backends.Errorf(backends.KeyDuplicate, "more than one object of a class has CKA_ID %s", r.ID)
		}
		err := t.WithSession(ctx, func(s *token.Session) error { return do(s, o.Handle) })
		if attempt > 1 || !token.StaleHandle(err) {
			return err
		}
		t.Index.Drop(r, o)
	}
}

// rsaPublic reads the public key from the private one. It returns nothing if
// the token does not give it.
func (t *Token) rsaPublic(ctx context.Context, key *backends.Key, u *token.Purpose) (encoded []byte, err error) {
	err = t.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) error {
		encoded, err = s.RSAPrivatePublic(u.Pair, h)
		return err
	})
	return encoded, err
}

// RecoverPublic recovers the public key of a pair whose public key object is
// missing. Only ECDSA gives it away.
func (t *Token) recoverPublic(ctx context.Context, key *backends.Key, u *token.Purpose) ([]byte, error) {
	if key.Usage != backends.SignVerify || u.Pair.Form != der.ECKey {
		return nil, backends.Errorf(backends.KeyMissing, "the token has no public key with CKA_ID %s for now", key.ID)
	}
	var encoded []byte
	t.Note(key.ID, false)
	err := t.WithKey(ctx, key, u, func(s *token.Session, h cryptoki.Object) (err error) {
		encoded, err = s.RecoverPublic(u.Pair, h)
		return err
	})
	return encoded, err
}
