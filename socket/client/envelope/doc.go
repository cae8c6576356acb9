// Package envelope reads and writes files in the message format of the AWS
// Encryption SDK: content of any length under a data key of its own, and in front
// of it the data key, encrypted under one or several KMS keys. Any
// implementation of the format opens what it writes, and the other way round.
//
// Content is encrypted and decrypted as it streams, on all cores, in constant
// memory. Messages are written in version 2 of the format, with suites that
// commit to the data key; those of version 1 are read if [Options] allow it.
//
// https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/message-format.html
package envelope

import (
	"context"
	"errors"
	"runtime"
	"strings"
)

// ErrInvalid means that the input is not a message, or was altered or cut.
var ErrInvalid = errors.New("not a valid envelope")

// ErrUncommitted means that the message's algorithm suite does not commit to a
// data key: whoever made it can have made it open differently under another key.
// [Options.AllowUncommitted] opens it.
var ErrUncommitted = errors.New("the algorithm suite does not commit to the data key")

const (
	// DefaultFrameLen is the length of frames that are written, in bytes.
	DefaultFrameLen = 64 << 10
	// MaxFrameLen is that of the longest frames that are written and read, and
	// of the longest content in one piece (which version 1 has): all of a frame is
	// in memory until its tag has been checked.
	MaxFrameLen = 16 << 20
	// chunkLen is about how much content one core works on at a time, in bytes: it and what
	// comes of it fit into the cache of a core.
	chunkLen = 256 << 10
	// maxBuffers bounds the buffers of a reader or writer, in bytes.
	maxBuffers = 48 << 20
)

// Keyring makes and opens the data keys of messages.
type Keyring interface {
	// Generate returns a new data key of n bytes and its encrypted forms, at least
	// one.
	Generate(ctx context.Context, n int, encryptionContext map[string]string) ([]byte, []EncryptedDataKey, error)
	// Decrypt returns the data key of n bytes from one of its encrypted forms.
	Decrypt(ctx context.Context, keys []EncryptedDataKey, n int, encryptionContext map[string]string) ([]byte, error)
}

// Options of a message. The zero value is good.
type Options struct {
	// Context is bound to the message. Written, it is in the header in the clear,
	// where the reader finds it, and in the audit trail. Read, it is a demand: a
	// message whose encryption context lacks one of its pairs is refused.
	Context map[string]string

	// Suite to write with: [Committed], the default, or [Signed].
	Suite Suite
	// FrameLen of what is written, in bytes, default [DefaultFrameLen].
	FrameLen int

	// AllowUncommitted reads messages of suites that do not commit to the data key.
	AllowUncommitted bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Suite == 0 {
		o.Suite = Committed
	}
	if o.FrameLen == 0 {
		o.FrameLen = DefaultFrameLen
	}
	switch {
	case !o.Suite.Commits():
		return o, errors.New("messages are written with the suites 0x0478 and 0x0578 only")
	case o.FrameLen < 0 || o.FrameLen > MaxFrameLen:
		return o, errors.New("frames have 1 byte to 16 MiB")
	}
	for name := range o.Context {
		if strings.HasPrefix(name, ReservedPrefix) {
			return o, errors.New("names in the encryption context that begin with " + ReservedPrefix + " are the format's")
		}
	}
	return o, nil
}

// ReservedPrefix is that of names in the encryption context that are the
// format's own.
const ReservedPrefix = "aws-crypto-"

// shape is how many frames a chunk has, and how many chunks there are, so that
// all cores are busy and the memory stays bounded.
func shape(frameLen int) (frames, chunks int) {
	frames = max(1, chunkLen/(frameLen+frameOverhead))
	one := 2 * frames * (frameLen + frameOverhead) // content and ciphertext
	return frames, min(8*runtime.GOMAXPROCS(0), max(2, maxBuffers/one))
}
