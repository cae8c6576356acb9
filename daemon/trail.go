package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"cmkd/daemon/audit"
	"cmkd/daemon/kms"
)

// auditKeyPrefix leads the names of the files that publish audit keys.
const auditKeyPrefix = "audit-key-"

// trailSigner signs checkpoints of the audit trail, which is open before the
// token is.
type trailSigner struct{ service atomic.Pointer[kms.Service] }

// Sign implements [audit.Signer].
func (s *trailSigner) Sign(ctx context.Context, digest []byte) (signature []byte, keyID string, err error) {
	service := s.service.Load()
	if service == nil {
		return nil, "", errors.New("the token is not open yet")
	}
	return service.SignCheckpoint(ctx, digest)
}

// publishAuditKeys writes the public keys beside the audit trail's folder, so
// that whoever has them can verify checkpoints offline.
func (d *Daemon) publishAuditKeys() error {
	for id, der := range d.kms.AuditKeys() {
		path := filepath.Join(d.cfg.StateDir, auditKeyPrefix+id+".pem")
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return fmt.Errorf("publishing the audit key: %w", err)
		}
	}
	return nil
}

// VerifyTrail verifies the audit trail in dir. Checkpoints are verified with
// the public keys in the PEM files, which keep the names that the daemon gave
// them; without any, the hash chain alone is.
func VerifyTrail(dir string, keyFiles []string) (audit.Report, error) {
	var options audit.VerifyOptions
	if len(keyFiles) > 0 {
		keys := map[string]*ecdsa.PublicKey{}
		for _, file := range keyFiles {
			id, key, err := readAuditKey(file)
			if err != nil {
				return audit.Report{}, err
			}
			keys[id] = key
		}
		options.Signature = audit.ECDSAVerifier(keys)
	}
	return audit.VerifyDir(dir, options)
}

func readAuditKey(file string) (string, *ecdsa.PublicKey, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", nil, fmt.Errorf("%s is no PEM file", file)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return "", nil, fmt.Errorf("%s is no ECDSA key", file)
	}
	id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), auditKeyPrefix), ".pem")
	return id, key, nil
}
