package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"cmkd/daemon/audit"
	"cmkd/daemon/kms"
)

// auditKeyPrefix leads the names of the files that publish audit keys.
const auditKeyPrefix = "audit-key-"

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
			d.log.Error("the published audit key was another one than the token's and is replaced: "+
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
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return nil
}

// TrailOptions say what a trail is compared with offline.
type TrailOptions struct {
	// KeyFiles are PEM files with the public keys of checkpoints, under the
	// names that the daemon gave them. Without any, ChainOnly must be set: the
	// hash chain alone proves nothing against who can write the whole trail.
	KeyFiles  []string
	ChainOnly bool
	// Head and After are records, "SEQUENCE:HASH": the first must be in the
	// trail, the second is the one that the trail's first record follows. Empty:
	// none is known.
	Head, After string
	Tail        audit.TailLimit
}

// Defaults of [TrailOptions.Tail]. They hold for the trail of a daemon that
// runs: it makes a checkpoint each minute and after 10,000 records, and the
// token has some time for that.
const (
	DefaultUnsignedRecords = 20_000
	DefaultUnsignedAge     = 3 * time.Minute
)

// tornRetries is how often a trail is read again that ends in the middle of a
// record: a daemon may be writing it.
const tornRetries = 3

// UsageError is a mistake in what was asked for, before anything was done.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what the mistake is.
func (e *UsageError) Unwrap() error { return e.Err }

// options reads what the options name.
func (o *TrailOptions) options() (options audit.VerifyOptions, err error) {
	options.Tail = &o.Tail
	if len(o.KeyFiles) == 0 && !o.ChainOnly {
		return options, errors.New("no public key is given: add the audit-key-*.pem files of the state folder, " +
			"or -chain-only to verify no more than the hash chain, which whoever can write the trail can rebuild")
	}
	if len(o.KeyFiles) > 0 {
		keys := map[string]*ecdsa.PublicKey{}
		for _, file := range o.KeyFiles {
			id, key, err := readAuditKey(file)
			if err != nil {
				return options, err
			}
			keys[id] = key
		}
		options.Signature = audit.ECDSAVerifier(keys)
	}
	if options.Sequence, options.Hash, err = parseRecord("head", o.Head); err != nil {
		return options, err
	}
	options.AfterSequence, options.AfterHash, err = parseRecord("after", o.After)
	return options, err
}

// VerifyTrail verifies the audit trail in dir. A [UsageError] means that it has not
// been looked at.
func VerifyTrail(dir string, o TrailOptions) (report audit.Report, err error) {
	options, err := o.options()
	if err != nil {
		return report, &UsageError{err}
	}
	for n := 0; ; n++ {
		report, err = audit.VerifyDir(dir, options)
		if !errors.Is(err, audit.ErrTorn) || n == tornRetries {
			break
		}
		time.Sleep(50 * time.Millisecond) // the daemon writes on
	}
	if report.Records == 0 && (err == nil || errors.Is(err, audit.ErrUnsigned) || errors.Is(err, audit.ErrHead)) {
		err = fmt.Errorf("%w: there is no record in %s", audit.ErrBeginning, dir)
	}
	return report, err
}

// parseRecord reads the name of a record, as verification prints it.
func parseRecord(option, text string) (sequence uint64, hash [sha256.Size]byte, err error) {
	if text == "" {
		return 0, hash, nil
	}
	number, digits, _ := strings.Cut(text, ":")
	sequence, err = strconv.ParseUint(number, 10, 64)
	raw, hexErr := hex.DecodeString(digits)
	if err != nil || hexErr != nil || sequence == 0 || len(raw) != sha256.Size {
		return 0, hash, fmt.Errorf("-%s %q is not SEQUENCE:HASH, as verification prints it", option, text)
	}
	return sequence, [sha256.Size]byte(raw), nil
}

func readAuditKey(file string) (string, *ecdsa.PublicKey, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", nil, fmt.Errorf("%s is not a PEM file", file)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", file, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return "", nil, fmt.Errorf("%s is not an ECDSA key", file)
	}
	id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), auditKeyPrefix), ".pem")
	return id, key, nil
}
