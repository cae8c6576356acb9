package audit

import (
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
	"time"
)

// KeyFilePrefix leads the names of the files with public keys of checkpoints, which end
// with the key's name and .pem.
const KeyFilePrefix = "audit-key-"

// OfflineOptions say what a trail is compared with offline.
type OfflineOptions struct {
	// KeyFiles are PEM files with the public keys of checkpoints, under the
	// names that the daemon gave them. Without any, ChainOnly must be set: the
	// hash chain alone proves nothing against who can write the whole trail.
	KeyFiles  []string
	ChainOnly bool
	// Head and After are records, "SEQUENCE:HASH": the first must be in the
	// trail, the second is the one that the trail's first record follows. Empty:
	// none is known.
	Head, After string
	// AtLeast: the trail must have this record, or a later one. 0: nothing is known.
	AtLeast uint64
	Tail    TailLimit
}

// Defaults of [OfflineOptions.Tail]. They hold for the trail of a daemon that
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

// ErrKeyFile: a file of [OfflineOptions.KeyFiles] cannot be used.
var ErrKeyFile = errors.New("reading the public key")

// options reads what the options name.
func (o *OfflineOptions) options() (options VerifyOptions, err error) {
	options.Tail = &o.Tail
	if len(o.KeyFiles) == 0 && !o.ChainOnly {
		return options, errors.New("no public key is given: add the audit-key-*.pem files of the state folder, " +
			"or --chain-only to verify no more than the hash chain, which whoever can write the trail can rebuild")
	}
	if len(o.KeyFiles) > 0 {
		keys := map[string]*ecdsa.PublicKey{}
		for _, file := range o.KeyFiles {
			id, key, err := readAuditKey(file)
			if err != nil {
				return options, fmt.Errorf("%w: %w", ErrKeyFile, err)
			}
			keys[id] = key
		}
		options.Signature = ECDSAVerifier(keys)
	}
	if options.Sequence, options.Hash, err = parseRecord("head", o.Head); err != nil {
		return options, err
	}
	options.AfterSequence, options.AfterHash, err = parseRecord("after", o.After)
	return options, err
}

// VerifyOffline verifies the audit trail in dir. A [UsageError] means that it has not
// been looked at.
func VerifyOffline(dir string, o OfflineOptions) (report Report, err error) {
	options, err := o.options()
	if err != nil {
		return report, &UsageError{err}
	}
	for n := 0; ; n++ {
		report, err = VerifyDir(dir, options)
		if !errors.Is(err, ErrTorn) || n == tornRetries {
			break
		}
		time.Sleep(50 * time.Millisecond) // the daemon writes on
	}
	if report.Records == 0 && (err == nil || errors.Is(err, ErrUnsigned) || errors.Is(err, ErrHead)) {
		err = fmt.Errorf("%w: no record in %s", ErrBeginning, dir)
	}
	if err == nil && report.Last < o.AtLeast {
		err = fmt.Errorf("%w: it ends with record %d, it should have record %d: later records were cut off, or the log is an older copy", ErrHead, report.Last, o.AtLeast)
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
		return 0, hash, fmt.Errorf("--%s %q is not SEQUENCE:HASH, as verification prints it", option, text)
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
	id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), KeyFilePrefix), ".pem")
	return id, key, nil
}
