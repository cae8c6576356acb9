package token

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cmkd/backends"
)

// loginRecord is a file that remembers the PIN that a token refused, across
// processes and restarts, so that a wrong PIN is tried once however many
// plugins have it and however often they are started. It is locked from
// looking at it until the login is decided: plugins that start together log in
// one after the other.
//
// The file is empty, or holds a salt and the PBKDF2 (RFC 8018) of the refused
// PIN: who reads it learns at some cost what the PIN is not.
type loginRecord struct{ file *os.File }

const (
	saltSize         = 16
	recordSize       = saltSize + sha256.Size
	pbkdf2Iterations = 600_000 // OWASP's figure of 2023 for HMAC-SHA-256
)

// openLoginRecord waits for the lock of the record at path until ctx ends.
// Without a path there is no record, and nothing is remembered. how is LOCK_EX for
// who logs in, and LOCK_SH for who initialises the module: SoftHSM2 writes the file
// of a token again when somebody logs in, and takes one that is empty for no token.
func openLoginRecord(ctx context.Context, path string, how int) (*loginRecord, error) {
	if path == "" {
		return &loginRecord{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "opening the record of logins: %v", err)
	}
	if err := waitLock(ctx, func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) }); err != nil {
		return nil, errors.Join(backends.Errorf(backends.Timeout, "waiting for another process to log in: %v", err), f.Close())
	}
	return &loginRecord{f}, nil
}

// LockProbe waits until no other process of the record probes with token objects. The lock is
// another one than that of logins, which take less time.
func LockProbe(ctx context.Context, path string) (*loginRecord, error) {
	if path == "" {
		return &loginRecord{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "opening the record of logins: %v", err)
	}
	if err := waitLock(ctx, func() error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}); err != nil {
		return nil, errors.Join(backends.Errorf(backends.Timeout, "waiting for another process to probe the token: %v", err), f.Close())
	}
	return &loginRecord{f}, nil
}

// waitLock calls try until it does not say that somebody else has the lock, or ctx ends.
func waitLock(ctx context.Context, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EACCES) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close unlocks the record.
func (r *loginRecord) Close() {
	if r.file != nil {
		_ = r.file.Close() // what was written is synced
	}
}

// refused says whether the token has refused a PIN since it last took one, and
// whether it was this one.
func (r *loginRecord) refused(pin []byte) (some, this bool, err error) {
	if r.file == nil {
		return false, false, nil
	}
	text, err := io.ReadAll(io.NewSectionReader(r.file, 0, recordSize+1))
	if err != nil {
		return false, false, fmt.Errorf("reading the record of logins: %w", err)
	}
	if len(text) != recordSize {
		return false, false, nil // empty, or torn by a crash
	}
	sum, err := refusedSum(pin, text[:saltSize])
	if err != nil {
		return false, false, err
	}
	return true, subtle.ConstantTimeCompare(sum, text[saltSize:]) == 1, nil
}

// refuse remembers that the token refused pin.
func (r *loginRecord) refuse(pin []byte) error {
	if r.file == nil {
		return nil
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	sum, err := refusedSum(pin, salt)
	if err != nil {
		return err
	}
	if _, err := r.file.WriteAt(bytes.Join([][]byte{salt, sum}, nil), 0); err != nil {
		return err
	}
	return r.file.Sync()
}

// accept forgets what was refused: the token has taken a PIN.
func (r *loginRecord) accept() error {
	if r.file == nil {
		return nil
	}
	info, err := r.file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	return r.file.Truncate(0)
}

func refusedSum(pin, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(pin), salt, pbkdf2Iterations, sha256.Size)
}
