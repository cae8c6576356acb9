package pkcs11

import (
	"context"
	"errors"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// secrets are the kinds of secret key of a backend. It implements the part of
// [backends.Backend] that all of them have, and [backends.Importer]. Beside
// what it announces it makes the wrapping pairs that imports need.
type secrets struct {
	*Token
	kinds []token.Kind
	// purposes has a purpose, or why there is none, for each kind.
	purposes map[token.Kind]*token.Purpose
	refused  map[token.Kind]error
}

func newSecrets(t *Token, kinds ...token.Kind) *secrets {
	b := &secrets{Token: t, kinds: kinds, purposes: make(map[token.Kind]*token.Purpose), refused: make(map[token.Kind]error)}
	for _, k := range kinds {
		if u, err := t.Profile.SecretPurpose(k.Spec, k.Usage); err != nil {
			b.refused[k] = err
		} else {
			b.purposes[k] = &u
		}
	}
	return b
}

// Purpose returns what a key is in the token.
func (b *secrets) purpose(key *backends.Key) (*token.Purpose, error) {
	k := token.Kind{Spec: key.Spec, Usage: key.Usage}
	if u := b.purposes[k]; u != nil {
		return u, nil
	}
	if err := b.refused[k]; err != nil {
		return nil, err
	}
	if k.Usage == backends.UnwrapImport {
		return b.wrappingPurpose(key)
	}
	return nil, backends.Errorf(backends.InvalidRequest, "this backend has no key of spec %s and usage %s", key.Spec, key.Usage)
}

// Info implements [backends.Backend].
func (b *secrets) Info(ctx context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	if err := b.prove(ctx, in); err != nil {
		return nil, err
	}
	var specs []backends.SpecInfo
	for _, k := range b.kinds {
		info := backends.SpecInfo{Spec: k.Spec, Usages: []backends.Usage{k.Usage}}
		if e, ok := errors.AsType[*backends.Error](b.refused[k]); ok {
			info.Unsupported = e.Message
		}
		specs = append(specs, info)
	}
	return b.infoAnswer(specs), nil
}

// CreateKey implements [backends.Backend].
func (b *secrets) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	if u.Pair != nil {
		return b.createPair(ctx, in, u)
	}
	return token.Persist(ctx, b.Token.Token, func(unsure bool) (*backends.CreateKeyAnswer, error) { return b.createSecret(ctx, in, u, unsure) },
		func(failed error) error { return token.Verdict(failed, b.passingSecret(ctx, u)) })
}

// passingSecret makes a secret key of a purpose that goes with its session.
func (b *secrets) passingSecret(ctx context.Context, u *token.Purpose) error {
	return b.WithSession(ctx, func(s *token.Session) error {
		h, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: token.Generators[u.KeyType]}, b.Profile.CMK(*u, false, nil, nil))
		if rv == p11.CKR_OK {
			s.Destroy(h)
		}
		return s.Check("C_GenerateKey", rv)
	})
}

func (b *secrets) createSecret(ctx context.Context, in *backends.CreateKeyRequest, u *token.Purpose, unsure bool) (*backends.CreateKeyAnswer, error) {
	existed, err := b.exists(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	if existed {
		return &backends.CreateKeyAnswer{Existed: true}, nil
	}
	err = b.create(ctx, &in.Key, u, in.Label, func(s *token.Session) (cryptoki.Object, error) {
		m := cryptoki.Mechanism{Type: token.Generators[u.KeyType]}
		h, rv := s.GenerateKey(s.Handle, m, b.Profile.CMK(*u, true, in.Key.ID[:], b.Profile.Label(in.Label)))
		return h, s.Check("C_GenerateKey", rv)
	})
	if err != nil {
		return nil, err
	}
	return &backends.CreateKeyAnswer{Unsure: unsure}, nil
}

// CheckKey implements [backends.Backend]. It reads the attributes now.
func (b *secrets) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	if u.Pair != nil {
		return b.checkPair(ctx, in, u)
	}
	err = b.WithKey(ctx, &in.Key, u, func(s *token.Session, h cryptoki.Object) error {
		return b.Profile.ReadBack(s, h, *u, in.Key.Imported)
	})
	if err != nil {
		return nil, err
	}
	return &backends.CheckKeyAnswer{}, nil
}

// exists reports whether a key is in the token, with the attributes of its
// purpose. Keys belong to one process, so the index knows, unless a creation
// has failed.
func (t *Token) exists(ctx context.Context, key *backends.Key, u *token.Purpose) (bool, error) {
	known := t.Index.Get(token.Ref{ID: key.ID, Class: u.Class}) != nil
	if !known && !t.Index.Doubtful.Load() {
		return false, nil
	}
	_, err := t.Object(ctx, key, u)
	if backends.CodeOf(err) == backends.KeyMissing {
		return false, nil
	}
	if known {
		err = maybeMade(err)
	}
	return err == nil, err
}

// maybeMade is err, unsure if it is that of a call that found no room after a key was made, or may
// have been.
func maybeMade(err error) error {
	if backends.CodeOf(err) == backends.Busy {
		return backends.Doubt(err)
	}
	return err
}

// create makes a token object by calling do, which returns its handle, reads
// its attributes back, and enters it in the index. An object that is not as
// its purpose wants it is destroyed again.
func (t *Token) create(ctx context.Context, key *backends.Key, u *token.Purpose, label string, do func(s *token.Session) (cryptoki.Object, error)) error {
	if err := t.Change.Lock(ctx); err != nil {
		return err
	}
	defer t.Change.Unlock()
	return t.WithSession(ctx, func(s *token.Session) error {
		if err := t.Sweep(s); err != nil {
			return err
		}
		h, err := do(s)
		if err != nil {
			t.Index.Doubtful.Store(true)
			return maybeMade(t.Refusal(err)) // CKR_HOST_MEMORY says nothing of the token
		}
		if err := t.Profile.ReadBack(s, h, *u, key.Imported); err != nil {
			t.Index.Doubtful.Store(true) // it is there, or may be
			if backends.CodeOf(err) == backends.KeyUnsafe {
				s.DestroyObject(s.Handle, h) // err says more than a failure to do so
				return err
			}
			return backends.Doubt(err)
		}
		o := &token.Object{Handle: h, Label: label}
		o.Safe.Store(&token.Vetting{Purpose: u, Imported: key.Imported})
		t.Index.Put(token.Ref{ID: key.ID, Class: u.Class}, o)
		return nil
	})
}

// Destroy removes every object with the key's CKA_ID, of whatever class, and
// searches to prove that none is left: once if it knows them all, since a search takes
// time in proportion to the token's objects. elsewhere: another process may have destroyed them.
func (t *Token) destroy(ctx context.Context, key *backends.Key, elsewhere bool) (*backends.DestroyKeyAnswer, error) {
	if err := t.Change.Lock(ctx); err != nil {
		return nil, err
	}
	defer t.Change.Unlock()
	answer := &backends.DestroyKeyAnswer{}
	err := t.WithSession(ctx, func(s *token.Session) error {
		if err := t.Sweep(s); err != nil {
			return err
		}
		var err error
		if answer.Objects, err = t.destroyKnown(s, key.ID); err != nil {
			return err
		}
		handles, err := t.SearchID(s, key.ID, token.AnyClass)
		if err != nil {
			return err
		}
		if known := t.Index.Forget(key.ID); known && answer.Objects == 0 && len(handles) == 0 && !elsewhere {
			return t.Lose(key.ID)
		}
		for _, h := range handles {
			if err := s.Check("C_DestroyObject", s.DestroyObject(s.Handle, cryptoki.Object(h))); err != nil {
				return err
			}
			answer.Objects++
		}
		left := 0
		if len(handles) > 0 {
			if handles, err = t.SearchID(s, key.ID, token.AnyClass); err != nil {
				return err
			}
			left = len(handles)
		}
		if left > 0 {
			return backends.Errorf(backends.Internal, "%d objects with CKA_ID %s are left after C_DestroyObject", left, key.ID)
		}
		return t.ProveObjects(s, token.Ref{ID: key.ID})
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// destroyKnown destroys the objects with an ID that the index has, if their handles are
// still theirs, and counts them.
func (t *Token) destroyKnown(s *token.Session, id backends.KeyID) (n int, err error) {
	for class := range token.UsageAttributes {
		o := t.Index.Get(token.Ref{ID: id, Class: class})
		if o == nil {
			continue
		}
		if err := s.Is(o.Handle, class, id[:]); err != nil {
			s.Broken = false // the search finds out what is the matter
			continue
		}
		if err := s.Check("C_DestroyObject", s.DestroyObject(s.Handle, o.Handle)); err != nil {
			return n, err
		}
		t.Index.Drop(token.Ref{ID: id, Class: class}, o)
		n++
	}
	return n, nil
}

// Blindness: SoftHSM2 2.6.1 keeps a list of objects in each process, and a counter
// in the token's folder that each change increments. C_FindObjectsInit makes the list
// again if the counter differs from what the process knows, and a process that changes
// something knows the new count without having looked. So the process that
// changed the token last does not find what others made between its last search and
// that change, until another one changes something. Measured: neither another session,
// nor C_CloseAllSessions and C_Login, nor C_GetTokenInfo help; C_Finalize with
// C_Initialize does. What others destroyed is not found, blind or not, since attributes
// are read from the files. The daemon lists through every plugin, therefore, and
// replaces the process before it believes that an object is missing.

// ListKeys implements [backends.Backend] for every kind of key. It searches
// the whole token, so keys that were added or doubled by others are noticed, unless
// those that are known are enough.
func (t *Token) ListKeys(ctx context.Context, in *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	if in != nil && in.Known {
		if keys, ok := t.Index.Keys(); ok {
			return &backends.ListKeysAnswer{Objects: keys}, nil
		}
	}
	l, err := t.Refresh(ctx, false)
	if err != nil {
		return nil, err
	}
	return &backends.ListKeysAnswer{Objects: l.Keys}, nil
}

// DestroyKey implements [backends.Backend] for every kind of key.
func (t *Token) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	out, err := t.destroy(ctx, &in.Key, in.Elsewhere)
	return out, t.InUse(ctx, in.Key.ID, err)
}

// prove has the token answer, if in wants that: with random bytes, which no module has
// from elsewhere. Having none to give is an answer, too.
func (t *Token) prove(ctx context.Context, in *backends.InfoRequest) error {
	if in == nil || !in.Prove {
		return nil
	}
	return t.WithSession(ctx, func(s *token.Session) error {
		var out [8]byte
		switch rv := s.GenerateRandom(s.Handle, out[:]); rv {
		case p11.CKR_RANDOM_NO_RNG, p11.CKR_FUNCTION_NOT_SUPPORTED:
			return nil
		default:
			return s.Check("C_GenerateRandom", rv)
		}
	})
}

// infoAnswer answers for a backend of the given specs.
func (t *Token) infoAnswer(specs []backends.SpecInfo) *backends.InfoAnswer {
	return &backends.InfoAnswer{Specs: specs, Token: t.TokenInfo(), Facts: t.Profile.Facts()}
}
