package envelope

import (
	"bufio"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// EncryptedDataKey is the data key of a message under one key.
type EncryptedDataKey struct {
	// Provider is what can decrypt it: "aws-kms", or a name of a keyring of one's
	// own.
	Provider string
	// Info says which of its keys: the ARN of a KMS key.
	Info []byte
	// Ciphertext is the encrypted data key: a CiphertextBlob of KMS.
	Ciphertext []byte
}

// Header is what a message says of itself, before its content. It is
// authentic only once the message has been opened.
type Header struct {
	Version   byte // of the message format, 1 or 2
	Suite     Suite
	MessageID []byte
	// Context is the encryption context, what the format itself puts there
	// (names that begin with aws-crypto-) included.
	Context map[string]string
	Keys    []EncryptedDataKey
	// FrameLen is the length of the content's frames in bytes, the last one may be
	// shorter; 0: the content is in one piece.
	FrameLen int

	commitment []byte
	authIV     []byte // of the tag
	tag        []byte
	raw        []byte // as read, up to the tag
}

// Limits of what is read, so that no header can cost more memory. A KMS
// CiphertextBlob has up to 6,144 bytes, an encryption context in KMS 8,192.
const (
	maxKeys       = 64
	maxKeyField   = 8 << 10
	maxContext    = 64<<10 - 1 // what the length field holds
	contentWhole  = 1
	contentFramed = 2
	typeEncrypted = 0x80 // the only type of a message of version 1
)

// ReadHeader reads the header of a message from src, from which it may have read
// more. The header has been checked for its form only.
func ReadHeader(src io.Reader) (*Header, error) {
	return readHeader(bufio.NewReader(src))
}

func readHeader(src io.Reader) (*Header, error) {
	h := new(Header)
	r := &headerReader{src: src}
	h.Version = r.byte()
	switch {
	case r.err != nil:
	case h.Version == 1:
		if t := r.byte(); t != typeEncrypted {
			r.invalid("message of type %#x", t)
		}
	case h.Version != 2:
		r.invalid("it begins with byte %#x, a message with its version, 1 or 2", h.Version)
	}
	h.Suite = Suite(r.uint16())
	p, err := h.Suite.known()
	if r.err == nil && err != nil {
		r.err = err
	}
	if p.commits != (h.Version == 2) {
		r.invalid("algorithm suite %s in a message of version %d", h.Suite, h.Version)
	}
	if h.Version == 1 {
		h.MessageID = r.bytes(16)
	} else {
		h.MessageID = r.bytes(32)
	}
	r.context(h)
	r.keys(h)
	r.content(h)
	if h.Version == 2 {
		h.commitment = r.bytes(commitmentLen)
	}
	h.raw = r.raw
	h.authIV = make([]byte, ivLen) // of zeros in version 2
	if h.Version == 1 {
		h.authIV = r.bytes(ivLen)
	}
	h.tag = r.bytes(tagLen)
	return h, r.err
}

// headerReader reads the fields of a header. After an error it reads zeros.
type headerReader struct {
	src io.Reader
	raw []byte // what was read
	err error
}

func (r *headerReader) bytes(n int) []byte {
	b := make([]byte, n)
	if r.err != nil {
		return b
	}
	if _, err := io.ReadFull(r.src, b); err != nil {
		r.err = cut(err)
	}
	r.raw = append(r.raw, b...)
	return b
}

func (r *headerReader) byte() byte     { return r.bytes(1)[0] }
func (r *headerReader) uint16() uint16 { return binary.BigEndian.Uint16(r.bytes(2)) }

// field reads a field whose length is in front of it, no more than limit bytes.
func (r *headerReader) field(limit int, what string) []byte {
	n := int(r.uint16())
	if n > limit {
		r.invalid("%s of %d bytes", what, n)
	}
	if r.err != nil {
		return nil
	}
	return r.bytes(n)
}

func (r *headerReader) invalid(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
}

func (r *headerReader) context(h *Header) {
	b := r.field(maxContext, "encryption context")
	if r.err != nil {
		return
	}
	var err error
	if h.Context, err = parseContext(b); err != nil {
		r.err = err
	}
}

func (r *headerReader) keys(h *Header) {
	n := int(r.uint16())
	if n == 0 || n > maxKeys {
		r.invalid("%d encrypted data keys, want 1 to %d", n, maxKeys)
	}
	for range n {
		if r.err != nil {
			return
		}
		provider := r.field(maxKeyField, "key provider")
		if !utf8.Valid(provider) {
			r.invalid("key provider %q", provider)
		}
		h.Keys = append(h.Keys, EncryptedDataKey{
			Provider:   string(provider),
			Info:       r.field(maxKeyField, "key provider information"),
			Ciphertext: r.field(maxKeyField, "encrypted data key"),
		})
	}
}

// content reads the form of what follows the header.
func (r *headerReader) content(h *Header) {
	form := r.byte()
	if h.Version == 1 {
		if z := binary.BigEndian.Uint32(r.bytes(4)); z != 0 {
			r.invalid("reserved field of %#x", z)
		}
		if n := r.byte(); n != ivLen {
			r.invalid("IVs of %d bytes", n)
		}
	}
	length := int64(binary.BigEndian.Uint32(r.bytes(4)))
	switch {
	case form == contentFramed && length == 0, form == contentWhole && length != 0, form != contentFramed && form != contentWhole:
		r.invalid("content of type %d with frames of %d bytes", form, length)
	case length > MaxFrameLen:
		r.invalid("frames of %d bytes, this reader takes up to %d", length, MaxFrameLen)
	}
	h.FrameLen = int(length)
}

// append appends the header, up to its tag, as version 2 has it.
func (h *Header) append(dst []byte) ([]byte, error) {
	context, err := appendContext(nil, h.Context)
	if err != nil {
		return nil, err
	}
	if len(h.Keys) == 0 || len(h.Keys) > maxKeys {
		return nil, fmt.Errorf("%d encrypted data keys, want 1 to %d", len(h.Keys), maxKeys)
	}
	dst = append(dst, 2)
	dst = binary.BigEndian.AppendUint16(dst, uint16(h.Suite))
	dst = append(dst, h.MessageID...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(context)))
	dst = append(dst, context...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Keys)))
	for _, k := range h.Keys {
		for _, field := range [][]byte{[]byte(k.Provider), k.Info, k.Ciphertext} {
			if len(field) > maxKeyField {
				return nil, fmt.Errorf("encrypted data key of %s with a field of %d bytes", k.Provider, len(field))
			}
			dst = binary.BigEndian.AppendUint16(dst, uint16(len(field)))
			dst = append(dst, field...)
		}
	}
	dst = append(dst, contentFramed)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.FrameLen))
	return append(dst, h.commitment...), nil
}

// authenticate checks the commitment and the tag with what was derived from the
// data key.
func (h *Header) authenticate(aead cipher.AEAD, commitment []byte) error {
	if subtle.ConstantTimeCompare(h.commitment, commitment) != 1 {
		return fmt.Errorf("%w: it commits to another data key", ErrInvalid)
	}
	if _, err := aead.Open(nil, h.authIV, h.tag, h.raw); err != nil {
		return fmt.Errorf("%w: the header was altered", ErrInvalid)
	}
	return nil
}

// parseContext reads an encryption context: the number of pairs, then names and
// values, each after its length. An empty one has no bytes at all.
func parseContext(b []byte) (map[string]string, error) {
	out := map[string]string{}
	if len(b) == 0 {
		return out, nil
	}
	next := func() (string, bool) {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return "", false
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		s := string(b[2:n])
		b = b[n:]
		return s, utf8.ValidString(s)
	}
	n := int(binary.BigEndian.Uint16(append(b[:min(2, len(b)):min(2, len(b))], 0, 0)))
	b = b[min(2, len(b)):]
	for range n {
		name, ok := next()
		value, ok2 := next()
		if _, twice := out[name]; !ok || !ok2 || twice {
			return nil, fmt.Errorf("%w: encryption context", ErrInvalid)
		}
		out[name] = value
	}
	if n == 0 || len(b) != 0 {
		return nil, fmt.Errorf("%w: encryption context", ErrInvalid)
	}
	return out, nil
}

// appendContext appends what parseContext reads, sorted by the bytes of the
// names.
func appendContext(dst []byte, context map[string]string) ([]byte, error) {
	if len(context) == 0 {
		return dst, nil
	}
	from := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(context)))
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, s := range []string{name, context[name]} {
			if len(s) > maxContext || !utf8.ValidString(s) {
				return nil, fmt.Errorf("encryption context: %q is not UTF-8 or too long", name)
			}
			dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
			dst = append(dst, s...)
		}
	}
	if n := len(dst) - from; n > maxContext {
		return nil, fmt.Errorf("encryption context of %d bytes, the format takes %d", n, maxContext)
	}
	return dst, nil
}
