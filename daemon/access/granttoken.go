package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"

	"cmkd/socket/kmsapi"
)

// A grant token names its grant and differs each time. It proves nothing: who
// shows it must be the grantee or retiring principal all the same. The checksum is
// there to tell a damaged token from that of a retired grant, not to stop forgers,
// who would gain nothing. Before base64 (RFC 4648, section 4):
//
//	offset  length  field
//	0       1       version, 2
//	1       16      random
//	17      32      grant ID
//	49      8       first bytes of the SHA-256 of all before
//
// Its length leaves no padding, in which bits could change unnoticed. Tokens of
// version 1 had no checksum.
const (
	grantTokenVersion = 2
	grantTokenLen     = 1 + 16 + 32 // without the checksum
	grantChecksumLen  = 8
)

// NewGrantToken makes a token for the grant.
func NewGrantToken(id string) string {
	token := make([]byte, 1+16, grantTokenLen+grantChecksumLen)
	token[0] = grantTokenVersion
	_, _ = rand.Read(token[1:]) // never fails: crypto/rand
	token, _ = hex.AppendDecode(token, []byte(id))
	return base64.StdEncoding.EncodeToString(append(token, grantChecksum(token)...))
}

func grantChecksum(token []byte) []byte {
	sum := sha256.Sum256(token)
	return sum[:grantChecksumLen]
}

// ParseGrantToken returns the grant ID in a token; ok is false for anything that
// NewGrantToken cannot have made, in this version or before.
func ParseGrantToken(token string) (id string, ok bool) {
	raw, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < grantTokenLen || base64.StdEncoding.EncodedLen(len(raw)) != len(token) { // that skips line breaks
		return "", false
	}
	body, checksum := raw[:grantTokenLen], raw[grantTokenLen:]
	switch body[0] {
	case 1:
		ok = len(checksum) == 0
	case grantTokenVersion:
		ok = bytes.Equal(checksum, grantChecksum(body))
	}
	return hex.EncodeToString(body[17:]), ok
}

// CheckGrantTokens refuses what cannot be a grant token. A token gives nothing
// to anyone but the grantee, whose grants count without it.
func CheckGrantTokens(tokens []string) error {
	if slices.ContainsFunc(tokens, func(t string) bool { _, ok := ParseGrantToken(t); return !ok }) {
		return ErrInvalidGrantToken()
	}
	return nil
}

// ErrInvalidGrantToken refuses what is not a grant token.
func ErrInvalidGrantToken() error {
	return kmsapi.Errorf(kmsapi.CodeInvalidGrantTokenException, "Grant token is invalid")
}
