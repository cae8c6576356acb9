package config

import (
	"crypto/x509"
	"fmt"

	"cmkd/daemon/attestation"
	"cmkd/daemon/trustedfile"
)

// Attestations trusts the configured roots; nil if there are none.
func (c *Config) Attestations() (*attestation.Verifier, error) {
	if len(c.AttestationRoots) == 0 {
		return nil, nil //nolint:nilnil // nil is the service's word for none
	}
	var roots []*x509.Certificate
	for _, path := range c.AttestationRoots {
		text, err := trustedfile.Read(path, maxConfig)
		if err != nil {
			return nil, fmt.Errorf("attestation_roots: reading %s: %w", path, err)
		}
		found, err := attestation.ParseRoots(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		roots = append(roots, found...)
	}
	return attestation.NewVerifier(roots), nil
}
