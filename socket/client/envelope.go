package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	streaming "github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// An envelope, version 1, is
//
//	0      4  "cmke"
//	4      1  version, 1
//	5      2  n, big-endian, 1 to 6,144
//	7      n  CiphertextBlob of a data key of 256 bits
//	7+n       Tink's AES256_GCM_HKDF_64KB streaming ciphertext under the data
//	          key (HKDF and HMAC with SHA-256), with all bytes before it as
//	          associated data:
//	            1  40, the length of this header
//	           32  salt
//	            7  nonce prefix
//	          then segments of 65,536 bytes, the first less the 40 of the
//	          header, the last as short as need be; each ends in a tag of 16
//	          bytes
//
// The encryption context is bound to the data key by the service and is not
// part of the envelope. https://developers.google.com/tink/streaming-aead
const (
	envelopeMagic   = "cmke"
	envelopeVersion = 1
	fixedLen        = len(envelopeMagic) + 1 + 2
	maxDataKeyLen   = 6144 // the limit of CiphertextBlob in the KMS API
	segmentLen      = 64 << 10
)

// ErrEnvelope means that the input is no envelope, or was altered or cut.
var ErrEnvelope = errors.New("not a valid envelope")

// EnvelopeClient is an SDK client with a [Recipient], so that it works
// unchanged with a daemon that gives out no plaintext data keys, and with
// envelope encryption: data of any length under a data key of its own, which
// is stored beside it under a KMS key.
type EnvelopeClient struct {
	*kms.Client
}

// NewEnvelopeClient returns a client for the daemon at [Path] of path.
func NewEnvelopeClient(path string, opts ...Option) (*EnvelopeClient, error) {
	recipient, err := NewRecipient(collect(opts).bits)
	if err != nil {
		return nil, err
	}
	return &EnvelopeClient{kms.NewFromConfig(Config(path, opts...), recipient.Attach)}, nil
}

// Seal encrypts plaintext under a new data key of the KMS key keyID, which may
// be a key ID, a key ARN, an alias name or an alias ARN. Whoever opens the
// envelope must give the same encryption context.
func (c *EnvelopeClient) Seal(ctx context.Context, keyID string, plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	var envelope bytes.Buffer
	w, err := c.SealWriter(ctx, &envelope, keyID, encryptionContext)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plaintext); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return envelope.Bytes(), nil
}

// Open undoes [EnvelopeClient.Seal]. If keyID is not empty, an envelope sealed
// under another key is refused with IncorrectKeyException. The error is
// [ErrEnvelope], or that of the service's Decrypt.
func (c *EnvelopeClient) Open(ctx context.Context, keyID string, envelope []byte, encryptionContext map[string]string) ([]byte, error) {
	r, err := c.OpenReader(ctx, bytes.NewReader(envelope), keyID, encryptionContext)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// SealWriter returns a writer that seals what is written to it, as
// [EnvelopeClient.Seal] does, and writes the envelope to dst. The envelope is
// complete only once Close has returned nil. Close leaves dst open.
func (c *EnvelopeClient) SealWriter(ctx context.Context, dst io.Writer, keyID string, encryptionContext map[string]string) (io.WriteCloser, error) {
	key, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId:             &keyID,
		KeySpec:           types.DataKeySpecAes256,
		EncryptionContext: encryptionContext,
	})
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	defer clear(key.Plaintext)
	if n := len(key.CiphertextBlob); n == 0 || n > maxDataKeyLen {
		return nil, fmt.Errorf("sealing: encrypted data key of %d bytes", n)
	}
	header := make([]byte, 0, fixedLen+len(key.CiphertextBlob))
	header = append(header, envelopeMagic...)
	header = append(header, envelopeVersion)
	header = binary.BigEndian.AppendUint16(header, uint16(len(key.CiphertextBlob)))
	header = append(header, key.CiphertextBlob...)
	cipher, err := newStream(key.Plaintext)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if _, err := dst.Write(header); err != nil {
		return nil, fmt.Errorf("writing the envelope: %w", err)
	}
	return cipher.NewEncryptingWriter(dst, header)
}

// OpenReader returns a reader of the plaintext of the envelope in src. What it
// returns is authentic but may be a beginning only: the end is known to be the
// end when the reader returns io.EOF. Where an error comes instead, what was
// read must be discarded. keyID is as in [EnvelopeClient.Open].
func (c *EnvelopeClient) OpenReader(ctx context.Context, src io.Reader, keyID string, encryptionContext map[string]string) (io.Reader, error) {
	header, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	in := &kms.DecryptInput{
		CiphertextBlob:    header[fixedLen:],
		EncryptionContext: encryptionContext,
	}
	if keyID != "" {
		in.KeyId = aws.String(keyID)
	}
	key, err := c.Decrypt(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	defer clear(key.Plaintext)
	cipher, err := newStream(key.Plaintext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEnvelope, err)
	}
	source := &sourceReader{src: src}
	r, err := cipher.NewDecryptingReader(source, header)
	if err != nil {
		return nil, source.explain(err)
	}
	return &openReader{r: r, source: source}, nil
}

// readHeader reads an envelope up to its stream.
func readHeader(src io.Reader) ([]byte, error) {
	var fixed [fixedLen]byte
	if _, err := io.ReadFull(src, fixed[:]); err != nil {
		return nil, truncated(err)
	}
	if string(fixed[:len(envelopeMagic)]) != envelopeMagic {
		return nil, ErrEnvelope
	}
	if v := fixed[len(envelopeMagic)]; v != envelopeVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrEnvelope, v, envelopeVersion)
	}
	n := int(binary.BigEndian.Uint16(fixed[fixedLen-2:]))
	if n == 0 || n > maxDataKeyLen {
		return nil, fmt.Errorf("%w: encrypted data key of %d bytes", ErrEnvelope, n)
	}
	header := make([]byte, fixedLen+n)
	copy(header, fixed[:])
	if _, err := io.ReadFull(src, header[fixedLen:]); err != nil {
		return nil, truncated(err)
	}
	return header, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut", ErrEnvelope)
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
