// Package pkcs11 implements the backends on a PKCS#11 token: [Symmetric],
// [Asymmetric] and [HMAC] on a [Token], which is a login, its sessions, a cache
// of key handles and what probing found out about the token.
package pkcs11

import (
	"context"
	"errors"

	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// Token is an open token. Its methods may be called concurrently.
type Token struct {
	*token.Token
	recipients *recipientCache
}

// Open loads the module, finds the token, logs in with a single try, probes
// what the token can do, and lists its keys. A token that lets a sensitive key
// out is refused with [backends.KeyUnsafe].
func Open(ctx context.Context, cfg Config) (*Token, error) {
	t, err := token.Open(ctx, cfg, probe.Profile)
	if err != nil {
		return nil, err
	}
	return opened(t)
}

// opened adds what the backends keep in an open token.
func opened(t *token.Token) (*Token, error) {
	recipients, err := newRecipientCache(t.Module, t.Anchor)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return &Token{t, recipients}, nil
}

// Config says which token a [Token] is and how it is used.
type Config = token.Config

// Keys are kinds of key that another process has in the same token; see [Config].
type Keys = token.Keys

// The kinds that [Config.Aside] may name.
const (
	NoKeys     = token.NoKeys
	AESKeys    = token.AESKeys
	SecretKeys = token.SecretKeys
)
