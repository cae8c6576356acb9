// Command cmkd-hmac is the plugin process of HMAC keys in one PKCS#11 token.
// The daemon starts it.
package main

import (
	"context"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/plugins"
	"cmkd/plugins/internal/token"
)

func main() { plugins.Serve("cmkd-hmac", open) }

func open(ctx context.Context, cfg plugins.Config) (backends.Backend, error) {
	t, err := token.Open(ctx, cfg, pkcs11.AESKeys)
	if err != nil {
		return nil, err
	}
	return pkcs11.NewHMAC(t), nil
}
