package backendstest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"cmkd/backends"
)

// errNoUse: use does not know what a key of this usage does.
var errNoUse = errors.New("the suite does not use keys of this usage")

func (s *suite) info(t *testing.T, b backends.Backend) {
	info, err := b.Info(t.Context(), &backends.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Token.Label == "" || info.Token.OpenSessions < 1 { // opencryptoki has no serial numbers
		t.Errorf("the token is not described: %+v", info.Token)
	}
	if len(info.Specs) == 0 {
		t.Error("no key specs are announced")
	}
}

// lifecycle creates, checks, lists and destroys a key of each kind.
func (s *suite) lifecycle(t *testing.T, b backends.Backend) {
	for _, kind := range s.kinds(t, b) {
		t.Run(string(kind.Spec)+"/"+string(kind.Usage), func(t *testing.T) {
			ctx := t.Context()
			key := create(t, b, kind)
			request := &backends.CreateKeyRequest{Key: key, Label: label(key)}
			check := &backends.CheckKeyRequest{Key: key}
			checked, err := b.CheckKey(ctx, check)
			if err != nil {
				t.Fatal(err)
			}
			again, err := b.CreateKey(ctx, request)
			if err != nil || !again.Existed || !slices.Equal(again.PublicKey, checked.PublicKey) {
				t.Errorf("creating it again: %+v, %v", again, err)
			}
			other := s.open(t) // as after a crash between creation and answer
			again, err = other.CreateKey(ctx, request)
			if err != nil || !again.Existed || !slices.Equal(again.PublicKey, checked.PublicKey) {
				t.Errorf("creating it again after a restart: %+v, %v", again, err)
			}
			if !listed(t, b, key) {
				t.Error("the key is not listed")
			}
			destroyed, err := b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: key})
			if err != nil || destroyed.Objects < 1 {
				t.Fatalf("destroying it: %+v, %v", destroyed, err)
			}
			destroyed, err = b.DestroyKey(ctx, &backends.DestroyKeyRequest{Key: key})
			if err != nil || destroyed.Objects != 0 {
				t.Errorf("destroying it again: %+v, %v", destroyed, err)
			}
			if listed(t, b, key) {
				t.Error("the destroyed key is listed")
			}
			_, err = b.CheckKey(ctx, check)
			wantCode(t, "checking a destroyed key", err, backends.KeyMissing)
			if err := use(ctx, b, key); !errors.Is(err, errNoUse) {
				wantCode(t, "using a destroyed key", err, backends.KeyMissing)
			}
		})
	}
	t.Run("a kind that is not announced", func(t *testing.T) {
		key := backends.Key{ID: newID(), Spec: "RSA_1024", Usage: backends.SignVerify}
		_, err := b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: label(key)})
		wantCode(t, "creating it", err, backends.InvalidRequest)
	})
}

func listed(t testing.TB, b backends.Backend, key backends.Key) bool {
	t.Helper()
	return listedAs(t, b, backends.Object{ID: key.ID, Label: label(key)})
}

func listedAs(t testing.TB, b backends.Backend, want backends.Object) bool {
	t.Helper()
	list, err := b.ListKeys(t.Context(), &backends.ListKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(list.Objects, want)
}

// unsafe plants keys that must not be served.
func (s *suite) unsafe(t *testing.T, b backends.Backend) {
	if s.rig.Plant == nil {
		t.Log("this rig cannot plant keys")
		return
	}
	for _, kind := range s.kinds(t, b) {
		if !quick(kind.Spec) && (kind.Spec != backends.RSA2048 || kind.Usage != backends.EncryptDecrypt) {
			continue // takes minutes, and looks at the same attributes
		}
		for _, flaw := range append([]Flaw{Good}, Flaws...) {
			t.Run(string(kind.Spec)+"/"+string(kind.Usage)+"/"+string(flaw), func(t *testing.T) {
				key := kind
				key.ID = newID()
				s.rig.Plant(t, key, flaw)
				want := backends.KeyUnsafe
				if flaw == Good {
					want = ""
				}
				if err := use(t.Context(), b, key); !errors.Is(err, errNoUse) {
					wantCode(t, "using it", err, want)
				}
				_, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
				wantCode(t, "checking it", err, want)
				fresh := s.open(t)
				_, err = fresh.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: label(key)})
				wantCode(t, "creating it", err, want)
			})
		}
		t.Run(string(kind.Spec)+"/"+string(kind.Usage)+"/two with one ID", func(t *testing.T) {
			s.duplicates(t, b, kind)
		})
	}
}

func (s *suite) duplicates(t *testing.T, b backends.Backend, kind backends.Key) {
	key := create(t, b, kind)
	s.rig.Plant(t, key, Good)
	if !listedAs(t, b, backends.Object{ID: key.ID, Label: label(key), Duplicate: true}) { // a search over the token notices
		t.Error("the key is not listed as a duplicate")
	}
	for name, b := range map[string]backends.Backend{"this": b, "a fresh": s.open(t)} {
		_, err := b.CheckKey(t.Context(), &backends.CheckKeyRequest{Key: key})
		wantCode(t, name+" backend checking it", err, backends.KeyDuplicate)
		if err := use(t.Context(), b, key); !errors.Is(err, errNoUse) {
			wantCode(t, name+" backend using it", err, backends.KeyDuplicate)
		}
	}
	destroyed, err := b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: key})
	if err != nil || destroyed.Objects < 2 {
		t.Errorf("destroying both: %+v, %v", destroyed, err)
	}
}

// contexts calls with contexts that have ended.
func (s *suite) contexts(t *testing.T, b backends.Backend) {
	key := create(t, b, s.kinds(t, b)[0])
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, err := b.CheckKey(late, &backends.CheckKeyRequest{Key: key})
	wantCode(t, "after the deadline", err, backends.Timeout)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.CheckKey(gone, &backends.CheckKeyRequest{Key: key}); err == nil || backends.CodeOf(err) == backends.Timeout {
		t.Errorf("after the caller went away: %v: only a deadline condemns the process", err)
	}
}
