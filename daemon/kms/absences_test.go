package kms_test

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"cmkd/backends"
	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// renewals counts the processes that were replaced.
type renewals struct {
	*memory.Router
	n int
}

func (r *renewals) Renew(ctx context.Context, token string, spec backends.KeySpec) error {
	r.n++
	return r.Router.Renew(ctx, token, spec)
}

// TestMissingConfirmedOnce: an object that stays missing costs one process, not one for
// each look at the token or each call; when it is back, that is noticed without one.
func TestMissingConfirmedOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := &renewals{}
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		r.Router = cfg.Router.(*memory.Router)
		cfg.Router, cfg.Now = r, func() time.Time { return now }
	})
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
	without := func(ids ...string) {
		objects := maps.Clone(whole)
		maps.DeleteFunc(objects, func(_ backends.KeyID, o memory.Object) bool {
			for _, id := range ids {
				if strings.Contains(o.Label, id) {
					return true
				}
			}
			return false
		})
		s.token.SetObjects(objects)
	}
	encrypt := func(id, code string) {
		s.call(code, "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	}
	look("nothing missing", 0, 0)
	without(first)
	look("one missing", 1, 1)
	for range 3 {
		encrypt(first, kmsapi.CodeKMSInvalidStateException)
	}
	look("one missing and used", 1, 1)
	without(first, second)
	encrypt(second, kmsapi.CodeKMSInvalidStateException)
	encrypt(second, kmsapi.CodeKMSInvalidStateException)
	look("two missing", 2, 2)
	if _, err := s.service.Recover(t.Context(), nil, nil); err != nil || r.n != 3 {
		t.Errorf("recover looked with %d processes, want one of its own: %v", r.n-2, err)
	}
	without(second)
	look("one back", 1, 3)
	encrypt(first, "")
	without()
	now = now.Add(time.Minute)
	s.call("", "DescribeKey", map[string]any{"KeyId": second}) // which leaves the look to
	encrypt(first, "")                                         // neither of these:
	encrypt(second, "")
	if got := s.service.MissingMaterials(); got != 0 {
		t.Errorf("a call has used the last missing material, and %d are missing", got)
	}
}
