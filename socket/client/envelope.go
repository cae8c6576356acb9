package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cmkd/socket/client/envelope"
)

// ErrEnvelope means that the input is not an envelope, or was altered or cut.
var ErrEnvelope = envelope.ErrInvalid

// EnvelopeClient is an SDK client with a [Recipient], so that it works
// unchanged with a daemon that gives out no plaintext data keys, and with
// envelope encryption: data of any length under a data key of its own, which
// is stored beside it under KMS keys, in the message format of the AWS
// Encryption SDK (package envelope).
type EnvelopeClient struct {
	*kms.Client

	region string // chosen by WithRegion
}

// NewEnvelopeClient returns a client for the daemon at [Path] of path.
func NewEnvelopeClient(path string, opts ...Option) (*EnvelopeClient, error) {
	o := collect(opts)
	recipient, err := NewRecipient(o.bits)
	if err != nil {
		return nil, err
	}
	c := &EnvelopeClient{Client: kms.NewFromConfig(Config(path, opts...), recipient.Attach)}
	if o.chosen {
		c.region = o.region
	}
	return c, nil
}

// InNamedRegion returns a client that opens envelopes in the Region that they name,
// even if [WithRegion] chose another one: that is for envelopes which name none, and
// for all other calls.
func (c *EnvelopeClient) InNamedRegion() *EnvelopeClient {
	return &EnvelopeClient{Client: c.Client}
}

// Keyring returns a keyring that seals under the KMS keys with the IDs, ARNs or
// aliases, and opens with any of the keys that a message names.
func (c *EnvelopeClient) Keyring(keys ...string) *envelope.KMS {
	return &envelope.KMS{Client: regionalClient{c.Client}, Keys: keys, Region: c.region}
}

// Seal encrypts plaintext under a new data key of the KMS key keyID, which may
// be a key ID, a key ARN, an alias name or an alias ARN. The encryption context is
// in the envelope, in the clear.
func (c *EnvelopeClient) Seal(ctx context.Context, keyID string, plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := c.SealWriter(ctx, &sealed, []string{keyID}, envelope.Options{Context: encryptionContext})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plaintext); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed.Bytes(), nil
}

// Open undoes [EnvelopeClient.Seal]. If keyID is not empty, an envelope sealed
// under another key is refused with IncorrectKeyException. An envelope whose encryption
// context lacks a pair of encryptionContext is refused with [envelope.ErrContext]. The error
// is [ErrEnvelope] for what is none, or that of the service's Decrypt.
func (c *EnvelopeClient) Open(ctx context.Context, keyID string, sealed []byte, encryptionContext map[string]string) ([]byte, error) {
	r, err := c.OpenReader(ctx, bytes.NewReader(sealed), keyID, envelope.Options{Context: encryptionContext})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// SealWriter returns a writer that seals what is written to it, as
// [EnvelopeClient.Seal] does, and writes the envelope to dst. The envelope is
// complete only once Close has returned nil. To give it up end ctx before Close, which
// must be called in any case and leaves dst open.
func (c *EnvelopeClient) SealWriter(ctx context.Context, dst io.Writer, keys []string, options envelope.Options) (*envelope.Writer, error) {
	w, err := envelope.NewWriter(ctx, dst, c.Keyring(keys...), options)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return w, nil
}

// OpenReader returns a reader of the plaintext of the envelope in src, which may be of
// the older format too; then the encryption context in options must be the one that it
// was sealed with. What the reader returns is authentic but may be a beginning
// only: the end is known to be the end when it returns io.EOF. Where an error comes
// instead, what was read must be discarded. keyID is as in [EnvelopeClient.Open]. Close
// must be called.
func (c *EnvelopeClient) OpenReader(ctx context.Context, src io.Reader, keyID string, options envelope.Options) (io.ReadCloser, error) {
	buffered := bufio.NewReader(src)
	magic, err := buffered.Peek(len(envelopeMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the envelope: %w", err)
	}
	if string(magic) == envelopeMagic {
		r, err := c.openOld(ctx, buffered, keyID, options.Context)
		return io.NopCloser(r), err
	}
	keys := c.Keyring()
	keys.Demand = keyID
	r, err := envelope.NewReader(ctx, buffered, keys, options)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	return r, nil
}

// regionalClient tells the signature that the options of a call name a Region.
type regionalClient struct{ client *kms.Client }

func regionOfCall(ctx context.Context, options []func(*kms.Options)) context.Context {
	var o kms.Options
	for _, f := range options {
		f(&o)
	}
	if o.Region == "" {
		return ctx
	}
	return context.WithValue(ctx, regionNamed{}, true)
}

// GenerateDataKey implements [envelope.KMSClient].
func (c regionalClient) GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, options ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	return c.client.GenerateDataKey(regionOfCall(ctx, options), in, options...)
}

// Encrypt implements [envelope.KMSClient].
func (c regionalClient) Encrypt(ctx context.Context, in *kms.EncryptInput, options ...func(*kms.Options)) (*kms.EncryptOutput, error) {
	return c.client.Encrypt(regionOfCall(ctx, options), in, options...)
}

// Decrypt implements [envelope.KMSClient].
func (c regionalClient) Decrypt(ctx context.Context, in *kms.DecryptInput, options ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	return c.client.Decrypt(regionOfCall(ctx, options), in, options...)
}
