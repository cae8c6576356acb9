package envelope

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// A frame is its sequence number, from 1 on, the IV, which is the number again, the
// ciphertext and the tag. The last frame has finalMark before and the length of its
// content after these; it may be empty.
const (
	frameHead     = 4 + ivLen
	frameOverhead = frameHead + tagLen
	finalHead     = 4 + 4 + ivLen + 4
	finalMark     = 0xFFFFFFFF
)

// The text in what a frame authenticates, by its kind.
const (
	ordinaryFrame = "AWSKMSEncryptionClient Frame"
	finalFrame    = "AWSKMSEncryptionClient Final Frame"
	wholeContent  = "AWSKMSEncryptionClient Single Block"
)

// content encrypts and decrypts the frames of one message. It is safe for
// concurrent use.
type content struct {
	aead      cipher.AEAD
	messageID []byte
}

// associated appends what a frame of n bytes authenticates beside its content.
func (c *content) associated(dst []byte, kind string, sequence uint32, n int) []byte {
	dst = append(append(dst, c.messageID...), kind...)
	dst = binary.BigEndian.AppendUint32(dst, sequence)
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

// appendIV appends the IV of a frame that is written.
func appendIV(dst []byte, sequence uint32) []byte {
	dst = append(dst, make([]byte, ivLen-4)...)
	return binary.BigEndian.AppendUint32(dst, sequence)
}

// seal appends frames of plain: ordinary ones of n bytes, the first with the
// sequence number first, and if it is the end a final one with the rest.
func (c *content) seal(dst, plain []byte, n int, first uint32, end bool) []byte {
	var aad [128]byte
	for ; len(plain) >= n; first++ {
		dst = binary.BigEndian.AppendUint32(dst, first)
		dst = appendIV(dst, first)
		dst = c.aead.Seal(dst, dst[len(dst)-ivLen:], plain[:n], c.associated(aad[:0], ordinaryFrame, first, n))
		plain = plain[n:]
	}
	if end {
		dst = binary.BigEndian.AppendUint32(dst, finalMark)
		dst = binary.BigEndian.AppendUint32(dst, first)
		dst = appendIV(dst, first)
		iv := dst[len(dst)-ivLen:]
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(plain)))
		dst = c.aead.Seal(dst, iv, plain, c.associated(aad[:0], finalFrame, first, len(plain)))
	}
	return dst
}

// open appends the content of ordinary frames.
func (c *content) open(dst, frames []byte, n int, first uint32) ([]byte, error) {
	for ; len(frames) > 0; first++ {
		var err error
		if dst, err = c.openOne(dst, frames[4:frameHead], frames[frameHead:n+frameOverhead], ordinaryFrame, first); err != nil {
			return dst, err
		}
		frames = frames[n+frameOverhead:]
	}
	return dst, nil
}

// openOne appends the content of what has been sealed as one piece.
func (c *content) openOne(dst, iv, sealed []byte, kind string, sequence uint32) ([]byte, error) {
	var aad [128]byte
	out, err := c.aead.Open(dst, iv, sealed, c.associated(aad[:0], kind, sequence, len(sealed)-tagLen))
	if err != nil {
		return dst, fmt.Errorf("%w: frame %d was altered", ErrInvalid, sequence)
	}
	return out, nil
}
