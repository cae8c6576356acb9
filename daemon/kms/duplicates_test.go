package kms_test

import (
	"maps"
	"strings"
	"testing"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

// TestDuplicateFound: the job finds a second object with a key's CKA_ID and, when
// it has gone, that it has. While the token is away what is known stays.
func TestDuplicateFound(t *testing.T) {
	t.Parallel()
	s := newInMemory(t)
	id := s.newKey(map[string]any{})
	check := func(what string, state kmsapi.KeyState, duplicates int) {
		t.Helper()
		if err := s.service.CheckDuplicates(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		found := s.service.Duplicates()
		if len(found) != duplicates || duplicates > 0 && (found[0].KeyID != id || found[0].Version != 1 || found[0].Token != "main") {
			t.Errorf("%s: the duplicates are %+v", what, found)
		}
		if n := s.service.CountKeys().Keys; n[access.KeyCountLabel{Region: "us-east-1", State: state}] != 1 {
			t.Errorf("%s: the keys are %v, want one %s", what, n, state)
		}
	}
	double := func(twice bool) {
		objects := maps.Clone(s.token.Objects())
		for ckaID, o := range objects {
			if strings.Contains(o.Label, id) {
				o.Twice = twice
				objects[ckaID] = o
			}
		}
		// Whose ID is not the database's is nobody's loss.
		objects[backends.KeyID{9}] = memory.Object{Label: "other", Twice: true}
		s.token.SetObjects(objects)
	}
	check("one object", "Enabled", 0)
	double(true)
	check("two objects", "Unavailable", 1)
	s.call(kmsapi.CodeKMSInvalidStateException, "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
	s.token.SetAway(true)
	check("the token away", "Unavailable", 1)
	s.token.SetAway(false)
	double(false)
	check("one object again", "Enabled", 0)
	s.call("", "Encrypt", map[string]any{"KeyId": id, "Plaintext": []byte("text")})
}
