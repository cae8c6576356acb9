package keyring

import (
	"context"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

// RouteNew finds the backend that can make a key of the spec in the token.
func (s *Keyring) RouteNew(token string, spec backends.KeySpec) (Backend, error) {
	b, info, ok := s.Router.Route(token, spec)
	if !ok {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException, "KeySpec %s is not supported: no plugin serves it.", spec)
	}
	if info.Unsupported != "" {
		return nil, kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
			"KeySpec %s is not supported: token %s lacks %s.", spec, token, info.Unsupported)
	}
	return b, nil
}

// Backend has every family of operations. Those that its kinds of key do not
// have answer [backends.Unsupported].
type Backend interface {
	backends.Backend
	backends.Cipher
	backends.ReEncrypter
	backends.DataKeyMaker
	backends.Randomizer
	backends.Signer
	backends.MACer
	backends.Agreer
	backends.Importer
	backends.Encapsulator
}

// Router finds the backend for a key.
type Router interface {
	// Route returns the backend that announced the key spec for the token, and
	// what it announced. ok is false if none did.
	Route(token string, spec backends.KeySpec) (b Backend, info backends.SpecInfo, ok bool)
	// Available reports whether keys of the spec in the token count as usable. A
	// token that has gone away does so for a while, in which its calls fail with
	// [backends.Lost]: the key's state would flicker, and clients do not repeat
	// what a state refuses.
	Available(token string, spec backends.KeySpec) bool
	// Serving reports whether calls are answered now, if need be after the
	// plugin's process has been replaced.
	Serving(token string, spec backends.KeySpec) bool
	// Renew puts another process in the place of the one that serves the key spec,
	// which sees the token as it is now.
	Renew(ctx context.Context, token string, spec backends.KeySpec) error
	// Losses counts how often a process was lost while it made or imported a key, among
	// those that serve the key spec: the token may make the key twice then.
	Losses(token string, spec backends.KeySpec) int
}
