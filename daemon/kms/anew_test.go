package kms_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"cmkd/backends"
	"cmkd/daemon/keyring"
	"cmkd/daemon/kms"
	"cmkd/testenv/memory"
)

// restless is a token during whose creations something happens.
type restless struct {
	*memory.Router
	meanwhile func()
}

func (r *restless) Route(name string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	_, info, ok := r.Router.Route(name, spec)
	return r, info, ok
}

func (r *restless) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	r.meanwhile()
	return r.Router.CreateKey(ctx, in)
}

func (r *restless) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	r.meanwhile()
	return r.Router.ImportKey(ctx, in)
}

// TestCreationsAreBounded: a call whose key changes each time that the token makes
// something for it has the token make it again a few times, and then gives up with an
// error that SDKs repeat. Nothing of it stays in the token. Once the key is left alone,
// it succeeds.
func TestCreationsAreBounded(t *testing.T) {
	t.Parallel()
	r := &restless{meanwhile: func() {}}
	s := newInMemoryWith(t, func(cfg *kms.Config) {
		r.Router = cfg.Router.(*memory.Router)
		cfg.Router = r
	})
	plain := s.newKey(map[string]any{})
	external := s.newKey(map[string]any{"Origin": "EXTERNAL"})
	parameters := map[string]any{"KeyId": external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
	imports := s.call("", "GetParametersForImport", parameters)
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, make([]byte, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		operation string
		in        map[string]any
	}{
		{"RotateKeyOnDemand", map[string]any{"KeyId": plain}},
		{"GetParametersForImport", parameters},
		{"ImportKeyMaterial", map[string]any{
			"KeyId": external, "ImportToken": imports["ImportToken"], "EncryptedKeyMaterial": sealed, "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
		}},
	} {
		for _, stubborn := range []int{3, 1 << 30} { // changes of the key
			before, made := len(s.token.Objects()), 0
			r.meanwhile = func() {
				if made++; made <= stubborn {
					s.call("", "TagResource", map[string]any{"KeyId": c.in["KeyId"], "Tags": []any{map[string]any{"TagKey": "n", "TagValue": string(rune('a' + made))}}})
				}
			}
			want := ""
			if stubborn > 3 {
				want = "KMSInternalException"
			}
			if c.operation == "ImportKeyMaterial" && want == "" {
				continue // it would use up what it is given
			}
			s.call(want, c.operation, c.in)
			if made != 4 {
				t.Errorf("%s, %d changes: the token was asked %d times, want 4", c.operation, stubborn, made)
			}
			left := len(s.token.Objects()) - before
			if want == "" {
				left--
			}
			if left != 0 {
				t.Errorf("%s, %d changes: %d more objects in the token than before", c.operation, stubborn, left)
			}
		}
		r.meanwhile = func() {}
		s.call("", c.operation, c.in)
	}
}
