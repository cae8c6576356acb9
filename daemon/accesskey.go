package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
	"cmkd/socket/sigv4"
)

// accessKeys are the fixed credentials by access key ID.
type accessKeys map[string]accessKey

type accessKey struct {
	secret    string
	principal string // ARN
}

// maxSecret is the longest secret access key in bytes.
const maxSecret = 1024

// minSecret is the shortest: AWS's have 40 bytes, and a guess costs nothing
// but a call.
const minSecret = 32

func loadAccessKeys(list []AccessKeyConfig) (accessKeys, error) {
	keys := accessKeys{}
	for _, k := range list {
		secret, err := readSecret(k.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("access key %s: %w", k.ID, err)
		}
		keys[k.ID] = accessKey{secret: secret, principal: k.Principal}
	}
	return keys, nil
}

// secretPath is the path of a file that holds a secret: name itself if that is
// absolute, else that of a systemd credential.
func secretPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" || !isFileName(name) {
		return "", fmt.Errorf("%q is neither an absolute path nor a systemd credential of this service", name)
	}
	return filepath.Join(dir, name), nil
}

// isFileName reports whether name is one in a folder, as that of a credential is.
func isFileName(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.Base(name) == name
}

// readSecret reads a file of the configuration that holds a secret. A name
// that is no absolute path is of a credential that systemd passes, whose mode
// is systemd's business.
// https://systemd.io/CREDENTIALS/
func readSecret(name string) (string, error) {
	path, err := secretPath(name)
	if err != nil {
		return "", err
	}
	if path == name { // ours
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return "", fmt.Errorf("%s can be read by others: its mode is %#o, it must be 0400", path, info.Mode().Perm())
		}
	}
	raw, err := readTrusted(path, maxSecret+1)
	if err != nil {
		return "", err
	}
	secret := bytes.TrimRight(raw, "\r\n")
	if len(secret) < minSecret || len(secret) > maxSecret || bytes.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s must hold a secret of %d to %d printable characters without spaces", path, minSecret, maxSecret)
	}
	return string(secret), nil
}

// signedBy is the caller that a request proves to be by its signature. ok is false
// if it names no access key of the configuration: stock clients sign with
// whatever they have, and then the kernel says who calls.
func (d *Daemon) signedBy(ids *identities, peer *journal.Caller, r *kmsapi.Request) (c *journal.Caller, ok bool, err error) {
	key, ok := ids.keys[r.AccessKeyID]
	if !ok || r.AccessKeyID == "" {
		return nil, false, nil
	}
	now := d.clock()
	v := sigv4.Verifier{
		Service: "kms",
		Secret:  func(id string) (string, bool) { k, ok := ids.keys[id]; return k.secret, ok },
		Now:     func() time.Time { return now },
	}
	id, err := v.Verify(r.HTTP, r.Body)
	if err == nil && id.AccessKeyID != r.AccessKeyID {
		err = errors.New("the request names two access keys")
	}
	if err == nil {
		err = d.replays.Check(id, peer.UID, now)
	}
	if err != nil {
		return nil, true, err
	}
	c = &journal.Caller{
		Principal: ids.principal(key.principal, r.AccessKeyID), AccessKeyID: r.AccessKeyID,
		UID: peer.UID, GID: peer.GID, PID: peer.PID,
	}
	c.Policies = ids.policiesOf(&c.Principal)
	return c, true, nil
}

// signatureRefusal is the refusal of a signature as the API words it.
func signatureRefusal(err error) *kmsapi.Error {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return &kmsapi.Error{Code: e.Code, Message: e.Message}
	}
	return kmsapi.Errorf(kmsapi.CodeInvalidSignatureException, "%s", err)
}

// clock is the time now.
func (d *Daemon) clock() time.Time {
	if d.now != nil {
		return d.now()
	}
	return time.Now()
}
