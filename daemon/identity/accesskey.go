package identity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"cmkd/daemon/config"
	"cmkd/daemon/journal"
	"cmkd/daemon/trustedfile"
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

func loadAccessKeys(list []config.AccessKey) (accessKeys, error) {
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

// readSecret reads a file of the configuration that holds a secret. A name
// that is not an absolute path is of a credential that systemd passes, whose mode
// is systemd's business.
// https://systemd.io/CREDENTIALS/
func readSecret(name string) (string, error) {
	path, err := trustedfile.SecretPath(name)
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
	raw, err := trustedfile.Read(path, maxSecret+1)
	if err != nil {
		return "", err
	}
	secret := bytes.TrimRight(raw, "\r\n")
	if len(secret) < minSecret || len(secret) > maxSecret || bytes.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s must hold a secret of %d to %d printable characters without spaces", path, minSecret, maxSecret)
	}
	return string(secret), nil
}

// SignedBy is the caller that a request proves to be by its signature. ok is false
// if it names no access key of the configuration: stock clients sign with
// whatever they have, and then the kernel says who calls.
func (ids *Identities) SignedBy(peer *journal.Caller, r *kmsapi.Request, replays *sigv4.Replays, now time.Time) (c *journal.Caller, ok bool, err error) {
	key, ok := ids.keys[r.AccessKeyID]
	if !ok || r.AccessKeyID == "" {
		return nil, false, nil
	}
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
		err = replays.Check(id, peer.UID, now)
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
