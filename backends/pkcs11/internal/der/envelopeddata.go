package der

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	encodingasn1 "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
)

var (
	oidData          = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}      // RFC 5652, section 4
	oidEnvelopedData = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}      // RFC 5652, section 6.1
	oidRSAESOAEP     = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}      // RFC 8017, appendix A.2.1
	oidMGF1          = encodingasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}      // RFC 8017, appendix A.2.1
	oidSHA256        = encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}  // RFC 4055, section 2.1
	oidAES256CBC     = encodingasn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42} // RFC 3565, section 4.1
)

// EnvelopedData is a CMS EnvelopedData in a ContentInfo (RFC 5652, sections 3 and
// 6.1) for one recipient who is named by a key identifier. key is the
// content-encryption key under the recipient's, content what is encrypted.
//
// It is BER with the indefinite lengths that AWS KMS sends, not DER: the parser
// of AWS's SDK for enclaves in C steps into these elements without looking at
// their lengths, and takes nothing else.
// https://github.com/aws/aws-nitro-enclaves-sdk-c/blob/main/source/cms.c
func EnvelopedData(public *rsa.PublicKey, key, iv, content []byte) ([]byte, error) {
	var b cryptobyte.Builder
	addIndefinite(&b, asn1.SEQUENCE, func() {
		b.AddASN1ObjectIdentifier(oidEnvelopedData)
		addIndefinite(&b, asn1.Tag(0).ContextSpecific().Constructed(), func() {
			addIndefinite(&b, asn1.SEQUENCE, func() {
				b.AddASN1Int64(2) // as a recipient of version 2 demands
				b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { addKeyTransRecipient(b, public, key) })
				addEncryptedContent(&b, iv, content)
			})
		})
	})
	out, err := b.Bytes()
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encoding a CMS EnvelopedData: %v", err)
	}
	return out, nil
}

// addIndefinite adds an element of indefinite length (X.690, section 8.1.3.6).
func addIndefinite(b *cryptobyte.Builder, tag asn1.Tag, contents func()) {
	b.AddUint8(uint8(tag))
	b.AddUint8(0x80)
	contents()
	b.AddUint16(0) // end-of-contents
}

// addKeyTransRecipient adds a KeyTransRecipientInfo (RFC 5652, section 6.2.1).
func addKeyTransRecipient(b *cryptobyte.Builder, public *rsa.PublicKey, key []byte) {
	// RFC 5280, section 4.2.1.2, method (1): of the bits of subjectPublicKey.
	identifier := sha1.Sum(x509.MarshalPKCS1PublicKey(public))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(2) // the recipient is named by a subjectKeyIdentifier
		b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(identifier[:]) })
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidRSAESOAEP)
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { addSHA256(b) })
				b.AddASN1(asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidMGF1)
						addSHA256(b)
					})
				})
			})
		})
		b.AddASN1OctetString(key)
	})
}

// addSHA256 adds the AlgorithmIdentifier of SHA-256 with the parameter NULL, as
// RFC 4055, section 2.1, wants it within RSAES-OAEP.
func addSHA256(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSHA256)
		b.AddASN1NULL()
	})
}

// addEncryptedContent adds an EncryptedContentInfo (RFC 5652, section 6.1). Its
// encryptedContent is a constructed string of one part.
func addEncryptedContent(b *cryptobyte.Builder, iv, content []byte) {
	addIndefinite(b, asn1.SEQUENCE, func() {
		b.AddASN1ObjectIdentifier(oidData)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidAES256CBC)
			b.AddASN1OctetString(iv)
		})
		addIndefinite(b, asn1.Tag(0).ContextSpecific().Constructed(), func() { b.AddASN1OctetString(content) })
	})
}

// EncryptCBC is AES-CBC with the padding of RFC 5652, section 6.3.
func EncryptCBC(key, iv, plaintext []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "encrypting for a recipient: %v", err)
	}
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	out := make([]byte, len(plaintext)+padding)
	for i := range out[copy(out, plaintext):] {
		out[len(plaintext)+i] = byte(padding)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, out)
	return out, nil
}
