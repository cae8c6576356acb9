package ciphertext

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/google/uuid"

	"cmkd/backends"
	"cmkd/daemon/keys"
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
// authenticates its IV on its own, and an HSM that makes the IV tells it only
// with the ciphertext. Any changed bit therefore fails the tag.
const (
	blobVersion = 1
	// HeaderLen, IVLen and TagLen are lengths in bytes.
	HeaderLen = 52
	IVLen     = 12
	TagLen    = 16
)

// Kind says what the ciphertext holds, and so whether Decrypt may give it
// out in the clear.
type Kind byte

// The kinds.
const (
	Plaintext  Kind = 1
	DataKey    Kind = 2
	PrivateKey Kind = 3
)

// Blob is a parsed ciphertext blob.
type Blob struct {
	Kind     Kind
	KeyID    string // UUID or "mrk-" and 32 digits
	Material string // key material ID, 64 hexadecimal digits
	Sealed   backends.Sealed
}

// appendHeader appends the authenticated first 52 bytes.
func (b *Blob) appendHeader(dst []byte) []byte {
	form, id := keyIDBytes(b.KeyID)
	dst = append(dst, blobVersion, byte(b.Kind), form)
	dst = append(dst, id[:]...)
	dst, _ = hex.AppendDecode(dst, []byte(b.Material))
	return append(dst, IVLen)
}

// Marshal returns the blob.
func (b *Blob) Marshal() []byte {
	dst := make([]byte, 0, HeaderLen+IVLen+len(b.Sealed.Ciphertext))
	dst = b.appendHeader(dst)
	dst = append(dst, b.Sealed.IV...)
	return append(dst, b.Sealed.Ciphertext...)
}

// Parse parses a blob; ok is false for anything that Marshal cannot have
// made.
func Parse(data []byte) (b *Blob, ok bool) {
	if len(data) < HeaderLen+IVLen+TagLen || data[0] != blobVersion || data[2] > 1 || data[51] != IVLen {
		return nil, false
	}
	b = &Blob{
		Kind:     Kind(data[1]),
		KeyID:    keyIDString(data[2], [16]byte(data[3:19])),
		Material: hex.EncodeToString(data[19:51]),
		Sealed:   backends.Sealed{IV: data[HeaderLen : HeaderLen+IVLen], Ciphertext: data[HeaderLen+IVLen:]},
	}
	return b, b.Kind >= Plaintext && b.Kind <= PrivateKey
}

// AAD returns the additional authenticated data of the blob.
func (b *Blob) AAD(account string, context map[string]string) []byte {
	return b.AppendAAD(make([]byte, 0, AADSize), account, context)
}

// AADSize is more than the additional authenticated data takes with a short context, in bytes.
const AADSize = 192

// AppendAAD is AAD appended to dst.
func (b *Blob) AppendAAD(dst []byte, account string, context map[string]string) []byte {
	dst = b.appendHeader(dst)
	dst = AppendString(dst, account)
	return appendContext(dst, context)
}

// appendContext appends the canonical form of an encryption context: the
// number of pairs, then each pair in the order of the keys' bytes, key and
// value each led by its length. Lengths and the number are 4 bytes,
// big-endian, so no two contexts share a form.
func appendContext(dst []byte, context map[string]string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(context)))
	for _, key := range sortedKeys(context) {
		dst = AppendString(dst, key)
		dst = AppendString(dst, context[key])
	}
	return dst
}

// AppendString appends a string led by its length: 4 bytes, big-endian.
func AppendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// keyIDBytes returns the form byte and the 16 bytes of a key ID that
// parseKeyID accepted or newKeyID made.
func keyIDBytes(id string) (form byte, raw [16]byte) {
	if digits, ok := strings.CutPrefix(id, keys.MRKPrefix); ok {
		_, _ = hex.Decode(raw[:], []byte(digits))
		return 1, raw
	}
	return 0, uuid.MustParse(id)
}

func keyIDString(form byte, raw [16]byte) string {
	if form == 1 {
		return keys.MRKPrefix + hex.EncodeToString(raw[:])
	}
	return uuid.UUID(raw).String()
}

func sortedKeys(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
