package kms

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/google/uuid"

	"cmkd/backends"
)

// A ciphertext blob of a symmetric key, version 1:
//
//	offset  length  field
//	0       1       version, 1
//	1       1       kind: 1 plaintext, 2 data key, 3 private key of a data key pair
//	2       1       form of the key ID: 0 a UUID, 1 a multi-Region ID ("mrk-")
//	3       16      key ID: the UUID, or the 32 hexadecimal digits after "mrk-"
//	19      32      key material ID
//	51      1       length of the IV
//	52      12      IV (AES-256-GCM, NIST SP 800-38D)
//	64      n       ciphertext; of kinds 2 and 3, of a wrapped data key
//	64+n    16      tag
//
// The additional authenticated data is the first 52 bytes, the account and the
// encryption context (see appendContext). The IV stays outside of it: GCM
// authenticates its IV by itself, and an HSM that makes the IV tells it only
// with the ciphertext. Any changed bit therefore fails the tag.
const (
	blobVersion   = 1
	blobHeaderLen = 52
	ivLen         = 12
	tagLen        = 16
)

// blobKind says what the ciphertext holds, and so whether Decrypt may give it
// out in the clear.
type blobKind byte

const (
	kindPlaintext  blobKind = 1
	kindDataKey    blobKind = 2
	kindPrivateKey blobKind = 3
)

const mrkPrefix = "mrk-"

// blob is a parsed ciphertext blob.
type blob struct {
	kind     blobKind
	keyID    string // UUID or "mrk-" and 32 digits
	material string // key material ID, 64 hexadecimal digits
	sealed   backends.Sealed
}

// appendHeader appends the authenticated first 52 bytes.
func (b *blob) appendHeader(dst []byte) []byte {
	form, id := keyIDBytes(b.keyID)
	dst = append(dst, blobVersion, byte(b.kind), form)
	dst = append(dst, id[:]...)
	dst, _ = hex.AppendDecode(dst, []byte(b.material))
	return append(dst, ivLen)
}

// marshal returns the blob.
func (b *blob) marshal() []byte {
	dst := make([]byte, 0, blobHeaderLen+ivLen+len(b.sealed.Ciphertext))
	dst = b.appendHeader(dst)
	dst = append(dst, b.sealed.IV...)
	return append(dst, b.sealed.Ciphertext...)
}

// parseBlob parses a blob; ok is false for anything that marshal cannot have
// made.
func parseBlob(data []byte) (b *blob, ok bool) {
	if len(data) < blobHeaderLen+ivLen+tagLen || data[0] != blobVersion || data[2] > 1 || data[51] != ivLen {
		return nil, false
	}
	b = &blob{
		kind:     blobKind(data[1]),
		keyID:    keyIDString(data[2], [16]byte(data[3:19])),
		material: hex.EncodeToString(data[19:51]),
		sealed:   backends.Sealed{IV: data[blobHeaderLen : blobHeaderLen+ivLen], Ciphertext: data[blobHeaderLen+ivLen:]},
	}
	return b, b.kind >= kindPlaintext && b.kind <= kindPrivateKey
}

// aad returns the additional authenticated data of the blob.
func (b *blob) aad(account string, context map[string]string) []byte {
	dst := make([]byte, 0, 256)
	dst = b.appendHeader(dst)
	dst = appendString(dst, account)
	return appendContext(dst, context)
}

// appendContext appends the canonical form of an encryption context: the
// number of pairs, then each pair in the order of the keys' bytes, key and
// value each led by its length. Lengths and the number are 4 bytes,
// big-endian, so no two contexts share a form.
func appendContext(dst []byte, context map[string]string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(context)))
	for _, key := range sortedKeys(context) {
		dst = appendString(dst, key)
		dst = appendString(dst, context[key])
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// keyIDBytes returns the form byte and the 16 bytes of a key ID that
// parseKeyID accepted or newKeyID made.
func keyIDBytes(id string) (form byte, raw [16]byte) {
	if digits, ok := strings.CutPrefix(id, mrkPrefix); ok {
		_, _ = hex.Decode(raw[:], []byte(digits))
		return 1, raw
	}
	return 0, uuid.MustParse(id)
}

func keyIDString(form byte, raw [16]byte) string {
	if form == 1 {
		return mrkPrefix + hex.EncodeToString(raw[:])
	}
	return uuid.UUID(raw).String()
}
