package daemon

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/kms"
)

// auditKeyPrefix leads the names of the files that publish audit keys.
const auditKeyPrefix = audit.KeyFilePrefix

// trailSigner signs checkpoints of the audit trail, which is open before the
// token is.
type trailSigner struct {
	service atomic.Pointer[kms.Service]
	ending  atomic.Bool // the daemon ends: it does not wait long for the token
}

// endSignTimeout bounds the last signature of a daemon that ends.
const endSignTimeout = 2 * time.Second

// Sign implements [audit.Signer].
func (s *trailSigner) Sign(ctx context.Context, digest []byte) (signature []byte, keyID string, err error) {
	service := s.service.Load()
	if service == nil {
		return nil, "", errors.New("the token is not open yet")
	}
	if s.ending.Load() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, endSignTimeout)
		defer cancel()
	}
	return service.SignCheckpoint(ctx, digest)
}

// publishAuditKeys writes the public keys beside the audit trail's folder, so
// that whoever has them can verify checkpoints offline.
func (d *Daemon) publishAuditKeys() error {
	for id, der := range d.kms.AuditKeys() {
		path := filepath.Join(d.cfg.StateDir, auditKeyPrefix+id+".pem")
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		was, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(was, text) {
			d.log.Error("the published audit key differed from the token's and was replaced: "+
				"repeat what was verified with it", "file", path)
		}
		if err == nil && bytes.Equal(was, text) {
			continue
		}
		if err := replaceFile(path, text); err != nil {
			return fmt.Errorf("publishing the audit key: %w", err)
		}
	}
	return nil
}

// replaceFile writes a file that everybody may read, whole or not at all.
func replaceFile(path string, text []byte) error {
	fresh := path + ".new"
	_ = os.Remove(fresh)                                                   // of a start that failed, or a link that would be followed
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) // which follows none
	if err == nil {
		_, err = f.Write(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return nil
}

// Verification without a daemon is package audit's.
type (
	// TrailOptions say what a trail is compared with offline.
	TrailOptions = audit.OfflineOptions
	// UsageError is a mistake in what was asked for, before anything was done.
	UsageError = audit.UsageError
)

// Defaults of [TrailOptions.Tail].
const (
	DefaultUnsignedRecords = audit.DefaultUnsignedRecords
	DefaultUnsignedAge     = audit.DefaultUnsignedAge
)

// VerifyTrail verifies the audit trail in dir. A [UsageError] means that it has not
// been looked at.
func VerifyTrail(dir string, o TrailOptions) (audit.Report, error) {
	return audit.VerifyOffline(dir, o)
}
