package pkcs11

import (
	"context"
	"errors"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// kind names keys that have one purpose.
type kind struct {
	spec  backends.KeySpec
	usage backends.Usage
}

// secrets are the kinds of secret key of a backend. It implements the part of
// [backends.Backend] that all of them have, and [backends.Importer]. Beside
// what it announces it makes the wrapping pairs that imports need.
type secrets struct {
	*Token
	kinds []kind
	// purposes has a purpose, or why there is none, for each kind.
	purposes map[kind]*purpose
	refused  map[kind]error
}

func newSecrets(t *Token, kinds ...kind) *secrets {
	b := &secrets{Token: t, kinds: kinds, purposes: make(map[kind]*purpose), refused: make(map[kind]error)}
	for _, k := range kinds {
		if u, err := t.profile.secretPurpose(k.spec, k.usage); err != nil {
			b.refused[k] = err
		} else {
			b.purposes[k] = &u
		}
	}
	return b
}

// purpose returns what a key is in the token.
func (b *secrets) purpose(key *backends.Key) (*purpose, error) {
	k := kind{key.Spec, key.Usage}
	if u := b.purposes[k]; u != nil {
		return u, nil
	}
	if err := b.refused[k]; err != nil {
		return nil, err
	}
	if k.usage == backends.UnwrapImport {
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
		info := backends.SpecInfo{Spec: k.spec, Usages: []backends.Usage{k.usage}}
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
	if u.pair != nil {
		return b.createPair(ctx, in, u)
	}
	return persist(ctx, b.Token, func(unsure bool) (*backends.CreateKeyAnswer, error) { return b.createSecret(ctx, in, u, unsure) },
		func(failed error) error { return verdict(failed, b.passingSecret(ctx, u)) })
}

// passingSecret makes a secret key of a purpose that goes with its session.
func (b *secrets) passingSecret(ctx context.Context, u *purpose) error {
	return b.withSession(ctx, func(s *session) error {
		h, rv := s.GenerateKey(s.handle, cryptoki.Mechanism{Type: generators[u.keyType]}, b.profile.cmk(*u, false, nil, nil))
		if rv == p11.CKR_OK {
			s.destroy(h)
		}
		return s.check("C_GenerateKey", rv)
	})
}

func (b *secrets) createSecret(ctx context.Context, in *backends.CreateKeyRequest, u *purpose, unsure bool) (*backends.CreateKeyAnswer, error) {
	existed, err := b.exists(ctx, &in.Key, u)
	if err != nil {
		return nil, err
	}
	if existed {
		return &backends.CreateKeyAnswer{Existed: true}, nil
	}
	err = b.create(ctx, &in.Key, u, in.Label, func(s *session) (cryptoki.Object, error) {
		m := cryptoki.Mechanism{Type: generators[u.keyType]}
		h, rv := s.GenerateKey(s.handle, m, b.profile.cmk(*u, true, in.Key.ID[:], b.profile.label(in.Label)))
		return h, s.check("C_GenerateKey", rv)
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
	if u.pair != nil {
		return b.checkPair(ctx, in, u)
	}
	err = b.withKey(ctx, &in.Key, u, func(s *session, h cryptoki.Object) error {
		return b.profile.readBack(s, h, *u, in.Key.Imported)
	})
	if err != nil {
		return nil, err
	}
	return &backends.CheckKeyAnswer{}, nil
}

// exists reports whether a key is in the token, with the attributes of its
// purpose. Keys belong to one process, so the index knows, unless a creation
// has failed.
func (t *Token) exists(ctx context.Context, key *backends.Key, u *purpose) (bool, error) {
	if t.index.get(ref{key.ID, u.class}) == nil && !t.index.doubtful.Load() {
		return false, nil
	}
	_, err := t.object(ctx, key, u)
	if backends.CodeOf(err) == backends.KeyMissing {
		return false, nil
	}
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
		if err := t.sweep(s); err != nil {
			return err
		}
		h, err := do(s)
		if err != nil {
			t.index.doubtful.Store(true)
			return t.refusal(err)
		}
		if err := t.profile.readBack(s, h, *u, key.Imported); err != nil {
			if backends.CodeOf(err) == backends.KeyUnsafe {
				s.DestroyObject(s.handle, h) // err says more than a failure to do so
			} else {
				t.index.doubtful.Store(true) // it is there
			}
			return err
		}
		o := &object{handle: h, label: label}
		o.safe.Store(&vetting{u, key.Imported})
		t.index.put(ref{key.ID, u.class}, o)
		return nil
	})
}

// destroy removes every object with the key's CKA_ID, of whatever class, and
// searches to prove that none is left: once if it knows them all, since a search takes
// time in proportion to the token's objects. elsewhere: another process may have destroyed them.
func (t *Token) destroy(ctx context.Context, key *backends.Key, elsewhere bool) (*backends.DestroyKeyAnswer, error) {
	if err := t.change.lock(ctx); err != nil {
		return nil, err
	}
	defer t.change.unlock()
	answer := &backends.DestroyKeyAnswer{}
	err := t.withSession(ctx, func(s *session) error {
		if err := t.sweep(s); err != nil {
			return err
		}
		var err error
		if answer.Objects, err = t.destroyKnown(s, key.ID); err != nil {
			return err
		}
		handles, err := t.searchID(s, key.ID, anyClass)
		if err != nil {
			return err
		}
		if known := t.index.forget(key.ID); known && answer.Objects == 0 && len(handles) == 0 && !elsewhere {
			return t.lose(key.ID)
		}
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

// destroyKnown destroys the objects with an ID that the index has, if their handles are
// still theirs, and counts them.
func (t *Token) destroyKnown(s *session, id backends.KeyID) (n int, err error) {
	for class := range usageAttributes {
		o := t.index.get(ref{id, class})
		if o == nil {
			continue
		}
		if err := s.is(o.handle, class, id[:]); err != nil {
			s.broken = false // the search finds out what is the matter
			continue
		}
		if err := s.check("C_DestroyObject", s.DestroyObject(s.handle, o.handle)); err != nil {
			return n, err
		}
		t.index.drop(ref{id, class}, o)
		n++
	}
	return n, nil
}

// forget drops all objects with an ID, and reports whether there was any.
func (x *index) forget(id backends.KeyID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	known := len(x.objects)
	for class := range usageAttributes {
		delete(x.objects, ref{id, class})
	}
	return len(x.objects) < known
}

// Blindness: SoftHSM2 2.6.1 keeps a list of objects in each process, and a counter
// in the token's folder that each change increments. C_FindObjectsInit makes the list
// anew if the counter differs from what the process knows, and a process that changes
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
		if keys, ok := t.index.keys(); ok {
			return &backends.ListKeysAnswer{Objects: keys}, nil
		}
	}
	l, err := t.refresh(ctx, false)
	if err != nil {
		return nil, err
	}
	return &backends.ListKeysAnswer{Objects: l.keys}, nil
}

// DestroyKey implements [backends.Backend] for every kind of key.
func (t *Token) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	out, err := t.destroy(ctx, &in.Key, in.Elsewhere)
	return out, t.inUse(ctx, in.Key.ID, err)
}

// prove has the token answer, if in wants that: with random bytes, which no module has
// from elsewhere. Having none to give is an answer, too.
func (t *Token) prove(ctx context.Context, in *backends.InfoRequest) error {
	if in == nil || !in.Prove {
		return nil
	}
	return t.withSession(ctx, func(s *session) error {
		var out [8]byte
		switch rv := s.GenerateRandom(s.handle, out[:]); rv {
		case p11.CKR_RANDOM_NO_RNG, p11.CKR_FUNCTION_NOT_SUPPORTED:
			return nil
		default:
			return s.check("C_GenerateRandom", rv)
		}
	})
}

// infoAnswer answers for a backend of the given specs.
func (t *Token) infoAnswer(specs []backends.SpecInfo) *backends.InfoAnswer {
	return &backends.InfoAnswer{Specs: specs, Token: t.tokenInfo(), Facts: t.profile.Facts()}
}
