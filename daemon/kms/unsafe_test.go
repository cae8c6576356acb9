package kms_test

import (
	"slices"
	"testing"
	"time"

	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/socket/kmsapi"
)

// TestUnsafeMaterial: of a key whose object was changed in the token neither DescribeKey
// nor the status nor recover says that all is well, and they notice when it is.
func TestUnsafeMaterial(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := newInMemoryWith(t, func(cfg *kms.Config) { cfg.Now = func() time.Time { return now } })
	id, other := s.newKey(map[string]any{}), s.newKey(map[string]any{})
	whole := s.token.Objects()
	damage := func() {
		objects := s.token.Objects()
		for object, o := range objects {
			if o.Label == "cmkd:"+id+":1" {
				o.Key.Imported = true
				objects[object] = o
			}
		}
		s.token.SetObjects(objects)
	}
	use := func(code string) {
		t.Helper()
		s.call(code, "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
		s.call("", "Encrypt", map[string]any{"KeyId": other, "Plaintext": []byte("text")})
	}
	check := func(what string, unsafe bool) {
		t.Helper()
		state, want := "Enabled", []keyring.Material(nil)
		if unsafe {
			state, want = "Unavailable", []keyring.Material{{KeyID: id, Version: 1, Token: "main"}}
		}
		if got := s.call("", "DescribeKey", map[string]any{"KeyId": id})["KeyMetadata"].(map[string]any)["KeyState"]; got != state {
			t.Errorf("%s: the key is %v, want %s", what, got, state)
		}
		if got := s.service.UnsafeMaterials(); !slices.Equal(got, want) {
			t.Errorf("%s: %v are unsafe, want %v", what, got, want)
		}
		inv, err := s.service.Recover(t.Context(), nil, nil)
		if err != nil || !slices.Equal(inv.Unsafe, want) || len(inv.Missing) > 0 {
			t.Errorf("%s: recover says %+v, %v", what, inv, err)
		}
	}
	use("")
	check("before", false)
	damage()
	use(kmsapi.CodeKMSInvalidStateException)
	use(kmsapi.CodeKMSInvalidStateException)
	check("changed", true)
	s.token.SetObjects(whole)
	now = now.Add(time.Minute)
	use("")
	if got := s.service.UnsafeMaterials(); len(got) > 0 {
		t.Errorf("the key works, and %v are unsafe", got)
	}
	check("restored and used", false)
	damage()
	use(kmsapi.CodeKMSInvalidStateException)
	s.token.SetObjects(whole)
	if err := s.service.LookForObjects(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.service.UnsafeMaterials(); len(got) > 0 {
		t.Errorf("restored and looked at by the jobs: %v are unsafe", got)
	}
}
