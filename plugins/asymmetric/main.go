// Command cmkd-asymmetric is the plugin process of asymmetric keys: it signs,
// verifies, decrypts and agrees on secrets with RSA and elliptic curve keys in
// one PKCS#11 token. The daemon starts it.
package main

import (
	"context"
	"errors"
	"runtime"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/plugins"
)

func main() {
	// RSA and Ed25519 take long enough outside of SoftHSM2's locks that a call
	// for each core pays. Verifying, in this process, does anyway.
	plugins.Serve("cmkd-asymmetric", open, plugins.WithWorkers(runtime.NumCPU()))
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
	b, err := pkcs11.NewAsymmetric(ctx, t)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return b, nil
}
