// Command cmkd-symmetric is the plugin process of symmetric keys: it encrypts,
// makes data keys and gives random bytes, all in one PKCS#11 token. The daemon
// starts it.
package main

import (
	"context"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/plugins"
	"cmkd/plugins/internal/token"
)

func main() { plugins.Serve("cmkd-symmetric", open) }

func open(ctx context.Context, cfg plugins.Config) (backends.Backend, error) {
	t, err := token.Open(ctx, cfg, pkcs11.NoKeys)
	if err != nil {
		return nil, err
	}
	return pkcs11.NewSymmetric(t), nil
}
