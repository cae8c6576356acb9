package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	streaming "github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// Before envelopes were messages of the AWS Encryption SDK they were of a format of
// their own, which is still opened. Version 2 of it is
//
//	0      4  "cmke"
//	4      1  version, 2
//	5      1  r, 1 to 32
//	6      r  Region of the key, lower-case letters, digits and dashes
//	6+r    2  n, big-endian, 1 to 6,144
//	8+r    n  CiphertextBlob of a data key of 256 bits
//	8+r+n     Tink's AES256_GCM_HKDF_64KB streaming ciphertext under the data
//	          key (HKDF and HMAC with SHA-256), with all bytes before it as
//	          associated data:
//	            1  40, the length of this header
//	           32  salt
//	            7  nonce prefix
//	          then segments of 65,536 bytes, the first less the 40 of the
//	          header, the last as short as need be; each ends in a tag of 16
//	          bytes
//
// Version 1 had no Region: n followed the version.
//
// The encryption context is bound to the data key by the service and is not
// part of the envelope. https://developers.google.com/tink/streaming-aead
const (
	envelopeMagic = "cmke"
	maxRegionLen  = 32
	maxDataKeyLen = 6144 // the limit of CiphertextBlob in the KMS API
	segmentLen    = 64 << 10
)

var envelopeRegion = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// envelopeHeader is an envelope up to its stream.
type envelopeHeader struct {
	raw     []byte
	version byte
	region  string // empty in version 1
	dataKey []byte // encrypted
}

// openOld returns a reader of the plaintext of the envelope in src.
func (c *EnvelopeClient) openOld(ctx context.Context, src io.Reader, keyID string, encryptionContext map[string]string) (io.Reader, error) {
	header, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	in := &kms.DecryptInput{
		CiphertextBlob:    header.dataKey,
		EncryptionContext: encryptionContext,
	}
	if keyID != "" {
		in.KeyId = aws.String(keyID)
	}
	var options []func(*kms.Options)
	if header.region != "" && c.region == "" {
		options = append(options, func(o *kms.Options) { o.Region = header.region })
	}
	key, err := regionalClient{c.Client}.Decrypt(ctx, in, options...)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	defer clear(key.Plaintext)
	cipher, err := newStream(key.Plaintext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEnvelope, err)
	}
	source := &sourceReader{src: src}
	r, err := cipher.NewDecryptingReader(source, header.raw)
	if err != nil {
		return nil, source.explain(err)
	}
	return &openReader{r: r, source: source}, nil
}

// readHeader reads an envelope up to its stream.
func readHeader(src io.Reader) (*envelopeHeader, error) {
	h := &envelopeHeader{}
	// next reads n bytes more.
	next := func(n int) ([]byte, error) {
		from := len(h.raw)
		h.raw = append(h.raw, make([]byte, n)...)
		if _, err := io.ReadFull(src, h.raw[from:]); err != nil {
			return nil, truncated(err)
		}
		return h.raw[from:], nil
	}
	b, err := next(len(envelopeMagic) + 1)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte(envelopeMagic)) {
		return nil, ErrEnvelope
	}
	switch h.version = b[len(envelopeMagic)]; h.version {
	case 1:
	case 2:
		if b, err = next(1); err == nil {
			b, err = next(min(int(b[0]), maxRegionLen+1))
		}
		if err != nil {
			return nil, err
		}
		if h.region = string(b); !envelopeRegion.MatchString(h.region) {
			return nil, fmt.Errorf("%w: Region %q", ErrEnvelope, h.region)
		}
	default:
		return nil, fmt.Errorf("%w: version %d, want 1 or 2", ErrEnvelope, h.version)
	}
	if b, err = next(2); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > maxDataKeyLen {
		return nil, fmt.Errorf("%w: encrypted data key of %d bytes", ErrEnvelope, n)
	}
	h.dataKey, err = next(n)
	return h, err
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: truncated", ErrEnvelope)
	}
	return fmt.Errorf("reading the envelope: %w", err)
}

// newStream makes the cipher of an envelope's data. It copies the data key, so
// wiping the caller's leaves one copy, which lives as long as the cipher.
func newStream(dataKey []byte) (*streaming.AESGCMHKDF, error) {
	return streaming.NewAESGCMHKDF(dataKey, "SHA256", 32, segmentLen, 0)
}

// openReader tells altered data from a source that fails. Its errors stay:
// Tink's reader, asked again after an altered last segment, would say io.EOF.
type openReader struct {
	r      io.Reader
	source *sourceReader
	err    error
}

func (o *openReader) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.r.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		o.err = io.EOF
	default:
		o.err = o.source.explain(err)
	}
	return n, o.err
}

// sourceReader remembers the error of a source.
type sourceReader struct {
	src io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// explain returns the error of the source if it had one, else [ErrEnvelope].
func (s *sourceReader) explain(err error) error {
	if s.err != nil {
		return fmt.Errorf("reading the envelope: %w", s.err)
	}
	return fmt.Errorf("%w: %w", ErrEnvelope, err)
}
