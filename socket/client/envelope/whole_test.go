package envelope

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// whole writes a message with its content in one piece, as versions of the AWS Encryption
// SDK before frames did, field by field of the format's description. The SDK for JavaScript
// opens what it writes.
// https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/message-format.html
func whole(t *testing.T, suite Suite, plain []byte) []byte {
	t.Helper()
	id := random(16)
	if suite.Commits() {
		id = random(32)
	}
	key, encrypted, err := testKeyring().Generate(t.Context(), suite.KeyLen(), nil)
	if err != nil {
		t.Fatal(err)
	}
	aead, commitment, err := suite.derive(key, id)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{2}
	if !suite.Commits() {
		b = []byte{1, 0x80}
	}
	b = binary.BigEndian.AppendUint16(b, uint16(suite))
	b = append(b, id...)
	b = append(b, 0, 0, 0, 1) // no encryption context, one encrypted data key
	for _, field := range [][]byte{[]byte(encrypted[0].Provider), encrypted[0].Info, encrypted[0].Ciphertext} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(field))), field...)
	}
	b = append(b, 1) // not framed
	headerIV := make([]byte, 12)
	if suite.Commits() {
		b = append(append(b, 0, 0, 0, 0), commitment...) // the length of frames
		b = aead.Seal(b, headerIV, nil, b)
	} else {
		b = append(b, 0, 0, 0, 0, 12, 0, 0, 0, 0) // reserved, length of IVs, that of frames
		b = append(b, aead.Seal(headerIV, headerIV, nil, b)...)
	}
	iv := random(12)
	b = append(b, iv...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(plain)))
	associated := append(bytes.Clone(id), "AWSKMSEncryptionClient Single Block\x00\x00\x00\x01"...)
	associated = binary.BigEndian.AppendUint64(associated, uint64(len(plain)))
	return aead.Seal(b, iv, plain, associated)
}

// TestWhole reads content that is in one piece, and none that was altered or cut.
func TestWhole(t *testing.T) {
	t.Parallel()
	for _, suite := range []Suite{0x0014, 0x0178, Committed} {
		for _, n := range []int{0, 1, 100_000} {
			plain := random(n)
			got, err := open(t.Context(), bytes.NewReader(whole(t, suite, plain)), Options{AllowUncommitted: true})
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: %d bytes, %v", suite, n, len(got), err)
			}
		}
		message := whole(t, suite, random(20))
		for i := range message {
			altered := bytes.Clone(message)
			altered[i] ^= 1 << (i % 8)
			if got, err := open(t.Context(), bytes.NewReader(altered), Options{AllowUncommitted: true}); err == nil || len(got) > 0 {
				t.Errorf("%s, byte %d altered: %d bytes, %v", suite, i, len(got), err)
			}
			if got, err := open(t.Context(), bytes.NewReader(message[:i]), Options{AllowUncommitted: true}); !errors.Is(err, ErrInvalid) || len(got) > 0 {
				t.Errorf("%s, cut to %d: %d bytes, %v", suite, i, len(got), err)
			}
		}
		if _, err := open(t.Context(), bytes.NewReader(append(message, 0)), Options{AllowUncommitted: true}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, a byte more: %v", suite, err)
		}
	}
	// More than a reader keeps in memory.
	long := whole(t, Committed, nil)
	binary.BigEndian.PutUint64(long[len(long)-tagLen-8:], MaxFrameLen+1)
	if _, err := open(t.Context(), bytes.NewReader(long), Options{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("long: %v", err)
	}
}
