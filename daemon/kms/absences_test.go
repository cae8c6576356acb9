package kms_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// renewals counts the processes that were replaced.
type renewals struct {
	*memory.Router
	n     int
	sees  map[backends.KeyID]memory.Object // what the next process finds, nil: the same
	after func()                           // Encrypt has not found its object
	away  string                           // a token that does not answer
}

func (r *renewals) Route(token string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := r.Router.Route(token, spec)
	return r, info, ok
}

func (r *renewals) Serving(token string, spec backends.KeySpec) bool {
	return token != r.away && r.Router.Serving(token, spec)
}

func (r *renewals) Renew(ctx context.Context, token string, spec backends.KeySpec) error {
	r.n++
	if r.sees != nil {
		r.SetObjects(r.sees)
	}
	return r.Router.Renew(ctx, token, spec)
}

func (r *renewals) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	out, err := r.Router.Encrypt(ctx, in)
	if err != nil && r.after != nil {
		after := r.after
		r.after = nil
		after()
	}
	return out, err
}

// withRenewals is a service on a token whose processes r replaces.
func withRenewals(t *testing.T, now func() time.Time, change func(*kms.Config)) (*inMemory, *renewals) {
	t.Helper()
	r := &renewals{}
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		r.Router = cfg.Router.(*memory.Router)
		cfg.Router, cfg.Now = r, now
		change(cfg)
	})
	return s, r
}

// without is objects without those of the keys, or of the versions "key:number".
func without(objects map[backends.KeyID]memory.Object, ids ...string) map[backends.KeyID]memory.Object {
	objects = maps.Clone(objects)
	maps.DeleteFunc(objects, func(_ backends.KeyID, o memory.Object) bool {
		return slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(o.Label+":", id+":") })
	})
	return objects
}

// TestMissingConfirmedOnce: an object that stays missing costs one process, not one for
// each look at the token or each call; when it is back, that is noticed without one.
func TestMissingConfirmedOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s, r := withRenewals(t, func() time.Time { return now }, func(*kms.Config) {})
	look := func(what string, missing, renewed int) {
		t.Helper()
		for range 3 {
			now = now.Add(2 * time.Hour)
			if err := s.service.LookForObjects(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.service.MissingMaterials(); got != missing || r.n != renewed {
			t.Errorf("%s: %d missing and %d processes, want %d and %d", what, got, r.n, missing, renewed)
		}
	}
	first, second := s.newKey(map[string]any{}), s.newKey(map[string]any{})
	whole := s.token.Objects()
	leave := func(gone ...string) { s.token.SetObjects(without(whole, gone...)) }
	encrypt := func(id, code string) {
		s.call(code, "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	}
	look("nothing missing", 0, 0)
	leave(first)
	look("one missing", 1, 1)
	for range 3 {
		encrypt(first, kmsapi.CodeKMSInvalidStateException)
	}
	look("one missing and used", 1, 1)
	leave(first, second)
	encrypt(second, kmsapi.CodeKMSInvalidStateException)
	encrypt(second, kmsapi.CodeKMSInvalidStateException)
	look("two missing", 2, 2)
	if _, err := s.service.Recover(t.Context(), nil, nil); err != nil || r.n != 3 {
		t.Errorf("recover looked with %d processes, want one of its own: %v", r.n-2, err)
	}
	leave(second)
	look("one back", 1, 3)
	encrypt(first, "")
	leave()
	now = now.Add(time.Minute)
	s.call("", "DescribeKey", map[string]any{"KeyId": second}) // which leaves the look to
	encrypt(first, "")                                         // neither of these:
	encrypt(second, "")
	if got := s.service.MissingMaterials(); got != 0 {
		t.Errorf("a call has used the last missing material, and %d are missing", got)
	}
}

// TestHiddenFromSeveralCalls: the first call that does not find an object has the
// process replaced. Another one that had not found it either, and now sees it, is to
// be repeated like the first.
func TestHiddenFromSeveralCalls(t *testing.T) {
	t.Parallel()
	s, r := withRenewals(t, time.Now, func(*kms.Config) {})
	id := s.newKey(nil)
	in := map[string]any{"KeyId": id, "Plaintext": []byte("text")}
	r.sees = s.token.Objects()
	s.token.SetObjects(without(r.sees, id))
	r.after = func() { s.call(kmsapi.CodeKeyUnavailableException, "Encrypt", in) }
	s.call(kmsapi.CodeKeyUnavailableException, "Encrypt", in)
	s.call("", "Encrypt", in)
	if r.n != 1 {
		t.Errorf("%d processes were replaced, want 1", r.n)
	}
}

// TestHiddenBesideMissing: that another material of the key is missing does not make
// the hidden one missing.
func TestHiddenBesideMissing(t *testing.T) {
	t.Parallel()
	s, r := withRenewals(t, time.Now, func(*kms.Config) {})
	id := s.newKey(nil)
	in := map[string]any{"KeyId": id, "Plaintext": []byte("text")}
	old := s.call("", "Encrypt", in)["CiphertextBlob"]
	s.call("", "RotateKeyOnDemand", map[string]any{"KeyId": id})
	r.sees = without(s.token.Objects(), id+":1")
	s.token.SetObjects(without(r.sees, id))
	s.call(kmsapi.CodeKeyUnavailableException, "Encrypt", in)
	s.call("", "Encrypt", in)
	s.call(kmsapi.CodeKMSInvalidStateException, "Decrypt", map[string]any{"CiphertextBlob": old})
	if got := s.service.MissingMaterials(); got != 1 {
		t.Errorf("%d materials are missing, want 1", got)
	}
	s.call("", "ScheduleKeyDeletion", map[string]any{"KeyId": id})
	if got := s.service.MissingMaterials(); got != 0 {
		t.Errorf("%d materials are missed of a key that is pending deletion", got)
	}
	s.call("", "CancelKeyDeletion", map[string]any{"KeyId": id})
	if got := s.service.MissingMaterials(); got != 1 {
		t.Errorf("%d materials are missing once the key is to stay, want 1", got)
	}
}

// TestMissingFromATokenThatWasAway: a token that does not answer when the others are
// looked through is not left out for an hour.
func TestMissingFromATokenThatWasAway(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s, r := withRenewals(t, func() time.Time { return now }, func(cfg *kms.Config) {
		cfg.Clusters = map[string]string{"cluster-1": "second"}
	})
	id := s.newKey(nil)
	r.away = "main"
	s.token.SetObjects(without(s.token.Objects(), id))
	for _, want := range []int{0, 1} {
		if err := s.service.LookForObjects(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.service.MissingMaterials(); got != want {
			t.Errorf("%d materials are missing, want %d", got, want)
		}
		r.away = "second"
		now = now.Add(time.Minute)
	}
}
