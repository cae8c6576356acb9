package keyring

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// What is written here is in the hands of users, or in tokens, for years: a
// test that has to be changed for a change of the code says that ciphertexts,
// grants or keys made before cannot be used any more.

const (
	formatKey = "01234567-89ab-cdef-0123-456789abcdef"
)

// TestTokenNames pins what stands in tokens and what is made of it: a lost
// database is recovered from these alone.
func TestTokenNames(t *testing.T) {
	t.Parallel()
	id := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	const wantLabel = "cmkd:" + formatKey + ":12"
	if got := Label(formatKey, 12); got != wantLabel {
		t.Errorf("the label is %q, want %q", got, wantLabel)
	}
	// SHA-256 of the label, a zero byte and the first 8 bytes of the CKA_ID.
	const wantMaterial = "44b4d129503a2772ac13749128838cdb23cbfc07f7b0f61036382e782353a819"
	if got := MaterialID(formatKey, 12, id); got != wantMaterial {
		t.Errorf("the key material ID is %s, want %s", got, wantMaterial)
	}
	if sum := sha256.Sum256([]byte(wantLabel + "\x00\x00\x01\x02\x03\x04\x05\x06\x07")); hex.EncodeToString(sum[:]) != wantMaterial {
		t.Errorf("the key material ID is not what its description says, %x", sum)
	}
	next := NextCKAID(id)
	if MaterialID(formatKey, 12, next) != wantMaterial || bytes.Equal(next, id) {
		t.Errorf("another object of the material has the CKA_ID %x", next)
	}
}
