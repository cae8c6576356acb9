// Command cmkd-asymmetric is the plugin process of asymmetric keys: it signs,
// verifies, decrypts and agrees on secrets with RSA and elliptic curve keys in
// one PKCS#11 token. The daemon starts it.
package main

import (
	"context"
	"errors"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/plugins"
	"cmkd/plugins/internal/token"
)

func main() { plugins.Serve("cmkd-asymmetric", open) }

func open(ctx context.Context, cfg plugins.Config) (backends.Backend, error) {
	t, err := token.Open(ctx, cfg, pkcs11.SecretKeys)
	if err != nil {
		return nil, err
	}
	b, err := pkcs11.NewAsymmetric(ctx, t)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return b, nil
}
