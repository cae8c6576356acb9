// Package token opens the PKCS#11 token that a plugin is told to serve.
package token

import (
	"context"

	"cmkd/backends/pkcs11"
	"cmkd/plugins"
)

// Open opens the token of the plugin's configuration. aside are keys that other
// plugins serve. Errors are those of [pkcs11.Open].
func Open(ctx context.Context, cfg plugins.Config, aside pkcs11.Keys) (*pkcs11.Token, error) {
	return pkcs11.Open(ctx, pkcs11.Config{
		Module:      cfg.Module,
		TokenLabel:  cfg.TokenLabel,
		TokenSerial: cfg.TokenSerial,
		PINFile:     cfg.PINFile,
		MaxSessions: cfg.MaxSessions,
		LoginRecord: cfg.LoginRecord,
		Aside:       aside,
	})
}
