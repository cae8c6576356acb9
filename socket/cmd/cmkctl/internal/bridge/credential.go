package bridge

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// Credential is an access key that a bridge takes.
type Credential struct {
	ID     string
	Secret string
}

// NewCredential makes a credential of the lengths that AWS's have: 20
// characters of which 16 are random, and 40 of 240 random bits. The ID does not
// begin with AKIA: it opens nothing of AWS's, and those who search for leaked
// keys shall not find it.
func NewCredential() Credential {
	id, secret := make([]byte, 10), make([]byte, 30)
	rand.Read(id)
	rand.Read(secret)
	return Credential{
		ID:     "CMKD" + base32.StdEncoding.EncodeToString(id),
		Secret: base64.StdEncoding.EncodeToString(secret),
	}
}

var accessKeyPattern = regexp.MustCompile(`^\w{1,128}$`)

// DevCredential returns the credential that the flags of dev name, a new one if
// they name none. Any secret will do: a daemon for trials has nothing to lose.
func DevCredential(id, secret string) (Credential, error) {
	switch {
	case id == "" && secret == "":
		return NewCredential(), nil
	case id == "" || secret == "":
		return Credential{}, cli.Usagef("--access-key and --secret-key belong together")
	}
	return Credential{ID: id, Secret: secret}, checkAccessKeyID(id)
}

func checkAccessKeyID(id string) error {
	if !accessKeyPattern.MatchString(id) {
		return cli.Usagef("access key ID %q: want up to 128 letters, digits and underscores", id)
	}
	return nil
}

// secretVariable holds the secret of a bridge that has no --secret-file.
// Command lines are for every user to see, environments are not (proc(5)).
const secretVariable = "CMKD_BRIDGE_SECRET"

// The length of a secret that somebody chooses, in bytes. Guesses cost only
// requests, so it must be long; AWS's have 40.
const (
	minSecret = 32
	maxSecret = 1024
)

// bridgeCredential returns the credential of an access key ID whose secret is in
// the file or else in [secretVariable]. A file that is a name alone is a
// credential of the systemd service. Without an ID it is a new one.
func bridgeCredential(id, file string) (Credential, error) {
	if id == "" {
		if file != "" {
			return Credential{}, cli.Usagef("--access-key and --secret-file belong together")
		}
		return NewCredential(), nil
	}
	if err := checkAccessKeyID(id); err != nil {
		return Credential{}, err
	}
	secret, from := os.Getenv(secretVariable), "$"+secretVariable
	if file != "" {
		var err error
		if secret, err = ReadSecret(file); err != nil {
			return Credential{}, cli.Inputf("reading the secret of access key %s: %w", id, err)
		}
		from = file
	}
	if secret == "" {
		return Credential{}, cli.Usagef("the secret of access key %s is missing: give --secret-file, or set %s", id, secretVariable)
	}
	notPrintable := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(secret) < minSecret || len(secret) > maxSecret || strings.ContainsFunc(secret, notPrintable) {
		return Credential{}, cli.Inputf("the secret in %s must have %d to %d printable characters without spaces: make one with `head -c 30 /dev/urandom | base64`", from, minSecret, maxSecret)
	}
	return Credential{ID: id, Secret: secret}, nil
}

// ReadSecret reads the secret of an access key.
func ReadSecret(name string) (string, error) {
	raw, err := readCredential(name, maxSecret+2, true)
	return strings.TrimRight(string(raw), "\r\n"), err
}

// readCredential reads up to limit bytes of a file, which nobody else may read if it is
// secret, or of a credential that systemd passes, whose mode is systemd's business
// (https://systemd.io/CREDENTIALS/).
func readCredential(name string, limit int64, secret bool) ([]byte, error) {
	path, dir := name, os.Getenv("CREDENTIALS_DIRECTORY")
	passed := dir != "" && filepath.Base(name) == name
	if passed {
		path = filepath.Join(dir, name)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); secret && !passed && mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others: its mode is %#o, want 0600 or 0400", path, mode.Perm())
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
