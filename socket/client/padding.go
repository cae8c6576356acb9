package client

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// wrapBlock is the block of RFC 5649, in bytes.
const wrapBlock = 8

// cutPadding removes what some tokens leave of RFC 5649's padding after a
// private key that they unwrapped and wrapped again: up to 7 zero bytes after
// the DER of its PKCS #8 form (RFC 5208: a SEQUENCE that begins with version 0
// or 1). Anything else is left as it is.
func cutPadding(plaintext []byte) []byte {
	rest := cryptobyte.String(plaintext)
	var element, inner cryptobyte.String
	var version uint
	if !rest.ReadASN1Element(&element, asn1.SEQUENCE) || len(rest) == 0 || len(rest) >= wrapBlock ||
		len(bytes.Trim(rest, "\x00")) != 0 {
		return plaintext
	}
	content := element
	if !content.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(&version) || version > 1 ||
		!inner.PeekASN1Tag(asn1.SEQUENCE) {
		return plaintext
	}
	return plaintext[:len(element)]
}
