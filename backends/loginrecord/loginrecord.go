// Package loginrecord remembers across processes which PIN a token has refused, and which logins were
// not answered.
package loginrecord

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

// Record is a file that remembers the PIN that a token refused, across
// processes and restarts, so that a wrong PIN is tried once however many
// plugins have it and however often they are started. It is locked from
// looking at it until the login is decided: plugins that start together log in
// one after the other.
//
// The file is empty, or holds a salt and the PBKDF2 (RFC 8018) of the refused PIN, or zeros,
// and then a count of the logins that were begun and not answered: it is written before
// C_Login, since a process may end in the call. Behind that is which state of the PIN file the token took
// last: a login with it is begun again however often no answer came, as when the token hangs. Who reads the file learns at some cost what
// the PIN is not. It keeps its length, so that it can be written on a full disk.
type Record struct{ file *os.File }

const (
	saltSize    = 16
	refusalSize = saltSize + sha256.Size
	acceptedAt  = refusalSize + 1
	recordSize  = acceptedAt + len(PINState{})
	// maxUnanswered is how often a login is begun with no answer to any: a process may
	// be killed in one by chance, and a token may have counted each as a wrong PIN.
	maxUnanswered    = 2
	pbkdf2Iterations = 600_000 // OWASP's figure of 2023 for HMAC-SHA-256
)

// Open waits for the lock of the record at path until ctx ends.
// Without a path there is no record, and nothing is remembered. how is LOCK_EX for
// who logs in, and LOCK_SH for who initialises the module: SoftHSM2 writes the file
// of a token again when somebody logs in, and takes one that is empty for no token.
func Open(ctx context.Context, path string, how int) (*Record, error) {
	if path == "" {
		return &Record{}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "opening the record of logins: %v", err)
	}
	if err := waitLock(ctx, func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) }); err != nil {
		return nil, errors.Join(backends.Errorf(backends.Timeout, "waiting for another process to log in: %v", err), f.Close())
	}
	return &Record{f}, nil
}

// LockProbe waits until no other process of the record probes with token objects. The lock is
// another one than that of logins, which take less time.
func LockProbe(ctx context.Context, path string) (*Record, error) {
	if path == "" {
		return &Record{}, nil
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
	return &Record{f}, nil
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
func (r *Record) Close() {
	if r.file != nil {
		_ = r.file.Close() // what was written is synced
	}
}

// read returns what is in the record, with zeros for what is not there.
func (r *Record) read() (text [recordSize]byte, err error) {
	if r.file == nil {
		return text, nil
	}
	n, err := r.file.ReadAt(text[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return text, fmt.Errorf("reading the record of logins: %w", err)
	}
	if n < refusalSize {
		clear(text[:]) // empty, or torn by a crash
	}
	return text, nil
}

func (r *Record) write(text [recordSize]byte) error {
	if r.file == nil {
		return nil
	}
	if _, err := r.file.WriteAt(text[:], 0); err != nil {
		return fmt.Errorf("writing the record of logins: %w", err)
	}
	if err := r.file.Sync(); err != nil {
		return fmt.Errorf("writing the record of logins: %w", err)
	}
	return nil
}

// Refused says whether the token has refused a PIN since it last took one, and
// whether it was this one.
func (r *Record) Refused(pin []byte) (some, this bool, err error) {
	text, err := r.read()
	if err != nil || [refusalSize]byte(text[:]) == [refusalSize]byte{} {
		return false, false, err
	}
	sum, err := refusedSum(pin, text[:saltSize])
	if err != nil {
		return false, false, err
	}
	return true, subtle.ConstantTimeCompare(sum, text[saltSize:refusalSize]) == 1, nil
}

// PINState tells one state of a PIN file from another, and nothing about the PIN.
type PINState [16]byte

// StateOf returns the state of the PIN file, which differs once it has been written.
func StateOf(path string) (state PINState, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return state, fmt.Errorf("looking at %s: %w", path, err)
	}
	sum := sha256.Sum256(fmt.Append(nil, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()))
	copy(state[:], sum[:])
	return state, nil
}

// Begin remembers that a login begins with the PIN of a file in that state. It is an error if the last ones were not
// answered and the token has not taken that PIN before, or if it cannot be written down.
func (r *Record) Begin(pin PINState) error {
	text, err := r.read()
	if err != nil {
		return err
	}
	if text[refusalSize] >= maxUnanswered {
		if PINState(text[acceptedAt:]) == pin {
			return nil
		}
		return backends.Errorf(backends.LoginFailed, "%d logins in a row were begun and never answered: not tried again, so that the token does not lock: log in by hand (pkcs11-tool --login --list-objects) to see whether it takes the PIN, then remove %s and run cmkctl reload, or what was run before if no cmkd runs", maxUnanswered, r.file.Name())
	}
	text[refusalSize]++
	if err := r.write(text); err != nil {
		return backends.Errorf(backends.Internal, "not logging in, since a wrong PIN could not be remembered: %v", err)
	}
	return nil
}

// Pass remembers that the login that began was answered, with nothing about the PIN.
func (r *Record) Pass() error {
	text, err := r.read()
	if err != nil {
		return err
	}
	text[refusalSize] = 0
	return r.write(text)
}

// Refuse remembers that the token refused pin.
func (r *Record) Refuse(pin []byte) error {
	if r.file == nil {
		return nil
	}
	var text [recordSize]byte
	rand.Read(text[:saltSize])
	sum, err := refusedSum(pin, text[:saltSize])
	if err != nil {
		return err
	}
	copy(text[saltSize:], sum)
	return r.write(text)
}

// Accept forgets what was refused: the token has taken the PIN of the file.
func (r *Record) Accept(pin PINState) error {
	var text [recordSize]byte
	copy(text[acceptedAt:], pin[:])
	return r.write(text)
}

// Remembers reports whether the record at path has something that a later login must know: a PIN
// that was refused, or a login that was not answered.
func Remembers(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && len(bytes.Trim(text[:min(len(text), acceptedAt)], "\x00")) > 0
}

func refusedSum(pin, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(pin), salt, pbkdf2Iterations, sha256.Size)
}
