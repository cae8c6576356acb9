package members

import (
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// TestDeleted takes imported material out of members that do not replicate that, one of
// them away: the caller has its answer at once, no call reaches the key, and its object goes when the
// member is back.
func TestDeleted(t *testing.T) {
	t.Parallel()
	tok := testenv.NewToken(t)
	tok.Sandbox = "creation = \"first\"\n"
	a, b := newMember(t, "a", tokensOf(tok)), newMember(t, "b", rig.Dir(t))
	s := prepare(t, rig.Config{Token: tok}, a, b)
	s.Initialise(t)
	sync(t, a.tokens, b.tokens)
	s.Start(t)
	s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
	keys := []string{s.imported(t), s.imported(t)}
	add(t, a.tokens, b.tokens)
	for _, id := range keys {
		s.awaitUse(t, id, a, b)
	}
	before := a.objects(t)
	s.takeOut(t, keys[0])
	if only(before, a.objects(t)) == nil {
		t.Error("the object is still in member a")
	}
	if left := only(b.objects(t), a.objects(t)); left != nil {
		t.Errorf("member b still has %v", left)
	}

	b.Away(true)
	s.awaitStates(t, map[string]string{"": "degraded", "a": "ok", "b": "unavailable"})
	s.takeOut(t, keys[1])
	if only(b.objects(t), a.objects(t)) == nil {
		t.Error("the member that is away has no object that the other has not: the test shows nothing")
	}
	b.Away(false)
	s.awaitStates(t, map[string]string{"": "ok", "a": "ok", "b": "ok"})
	if _, err := s.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &keys[1], Plaintext: []byte("text")}); rig.Code(err) != "KMSInvalidStateException" {
		t.Errorf("a key without material, whose object a member still has, is answered %v", err)
	}
	eventually(t, func() (bool, string) {
		err := s.Daemon.RunJobs(t.Context())
		left := only(b.objects(t), a.objects(t))
		return left == nil, fmt.Sprintf("member b still has %v; the jobs: %v", left, err)
	})
}

// only are the names that only the first list has.
func only(first, second []string) []string {
	var names []string
	for _, name := range first {
		if !slices.Contains(second, name) {
			names = append(names, name)
		}
	}
	return names
}

// imported makes a key with imported material.
func (s *scene) imported(t *testing.T) string {
	t.Helper()
	m := rig.NewImport(t, s.Client)
	m.Run(t)
	return m.ID
}

// takeOut deletes imported material.
func (s *scene) takeOut(t *testing.T, id string) {
	t.Helper()
	if _, err := s.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
}
