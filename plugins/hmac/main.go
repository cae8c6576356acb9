// Command cmkd-hmac is the plugin process of HMAC keys in one PKCS#11 token.
// The daemon starts it.
package main

import (
	"context"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/plugins"
)

func main() {
	// One call at a time is best for SoftHSM2, which takes global locks. The
	// configuration gives more workers to a token that takes no such locks.
	plugins.Serve("cmkd-hmac", open, plugins.WithWorkers(1))
}

func open(ctx context.Context, cfg plugins.Config) (backends.Backend, error) {
	t, err := pkcs11.Open(ctx, pkcs11.Config{
		Module:      cfg.Module,
		TokenLabel:  cfg.TokenLabel,
		TokenSerial: cfg.TokenSerial,
		PINFile:     cfg.PINFile,
		MaxSessions: cfg.MaxSessions,
		LoginRecord: cfg.LoginRecord,
	})
	if err != nil {
		return nil, err
	}
	return pkcs11.NewHMAC(t), nil
}
