package memory

import (
	"context"
	"slices"

	"cmkd/backends"
	"cmkd/daemon/keyring"
)

// Router is the token with the families that it does not have: for each token name
// it finds this one.
type Router struct {
	*Token
	refusing
}

// Route implements [keyring.Router].
func (t *Router) Route(_ string, spec backends.KeySpec) (keyring.Backend, backends.SpecInfo, bool) {
	info, _ := t.Info(context.Background(), nil)
	i := slices.IndexFunc(info.Specs, func(s backends.SpecInfo) bool { return s.Spec == spec })
	if i < 0 {
		return nil, backends.SpecInfo{}, false
	}
	return t, info.Specs[i], true
}

// Available implements [keyring.Router].
func (t *Router) Available(string, backends.KeySpec) bool {
	return t.enter(context.Background()) == nil
}

// Serving implements [keyring.Router].
func (t *Router) Serving(token string, spec backends.KeySpec) bool { return t.Available(token, spec) }

// Renew implements [keyring.Router].
func (t *Router) Renew(ctx context.Context, _ string, _ backends.KeySpec) error { return t.enter(ctx) }

// Losses implements [keyring.Router].
func (t *Router) Losses(string, backends.KeySpec) int { return 0 }

// refusing answers Unsupported.
type refusing struct{}

func errRefused() error { return backends.Errorf(backends.Unsupported, "not in memory") }

func (refusing) GenerateDataKey(context.Context, *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	return nil, errRefused()
}

func (refusing) GenerateDataKeyPair(context.Context, *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	return nil, errRefused()
}

func (refusing) OpenDataKey(context.Context, *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	return nil, errRefused()
}

func (refusing) GenerateRandom(context.Context, *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	return nil, errRefused()
}

func (refusing) Sign(context.Context, *backends.SignRequest) (*backends.SignAnswer, error) {
	return nil, errRefused()
}

func (refusing) Verify(context.Context, *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	return nil, errRefused()
}

func (refusing) DeriveSharedSecret(context.Context, *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	return nil, errRefused()
}

func (refusing) Encapsulate(context.Context, *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	return nil, errRefused()
}

func (refusing) Decapsulate(context.Context, *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	return nil, errRefused()
}

var _ keyring.Backend = (*Router)(nil)
