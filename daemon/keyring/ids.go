package keyring

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/keys"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// NewMultiRegionID makes a key ID of the form "mrk-" and 32 digits.
func NewMultiRegionID() string {
	id := uuid.New()
	return keys.MRKPrefix + hex.EncodeToString(id[:])
}

func NewVersion(keyID string, number int, now time.Time) *store.Version {
	id := NewCKAID()
	return &store.Version{
		KeyID: keyID, Number: number, CKAID: id, MaterialID: MaterialID(keyID, number, id),
		State: kmsapi.KeyMaterialStateCurrent, Created: now,
	}
}

// materialBytes of a CKA_ID belong to the key material, the others to the
// object: material that is imported again keeps the first.
const materialBytes = 8

// NewCKAID chooses a CKA_ID.
func NewCKAID() []byte {
	var id backends.KeyID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return id[:]
}

// NextCKAID chooses a CKA_ID for another object of the same material.
func NextCKAID(id []byte) []byte {
	next := NewCKAID()
	copy(next[:materialBytes], id)
	return next
}

// MaterialID is KeyMaterialId. It is made of what the token knows, so that a
// lost row can be made again from the object (see [Service.Recover]).
func MaterialID(keyID string, number int, id []byte) string {
	sum := sha256.Sum256(append([]byte(Label(keyID, number)+"\x00"), id[:materialBytes]...))
	return hex.EncodeToString(sum[:])
}

// Label is CKA_LABEL of a key version.
func Label(keyID string, version int) string { return fmt.Sprintf("cmkd:%s:%d", keyID, version) }

// parseLabel is the inverse of label, for labels of CMKs alone. Anybody with the
// PIN writes labels: a version beyond 31 bits is none that cmkd counted to.
func parseLabel(text string) (keyID string, version int, ok bool) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 || parts[0] != "cmkd" || !keys.IsID(parts[1]) {
		return "", 0, false
	}
	n, err := strconv.ParseInt(parts[2], 10, 32)
	version = int(n)
	return parts[1], version, err == nil && version > 0 && text == Label(strings.ToLower(parts[1]), version)
}

// ObjectID is the only conversion of a CKA_ID in the database to one in a token.
// One that has not 16 bytes, which somebody has edited, becomes one that no
// object has.
func ObjectID(id []byte) backends.KeyID {
	if len(id) != len(backends.KeyID{}) {
		sum := sha256.Sum256(id)
		id = sum[:len(backends.KeyID{})]
	}
	return backends.KeyID(id)
}
