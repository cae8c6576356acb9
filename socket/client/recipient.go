package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// oaepSHA1 is RSAES-OAEP with SHA-1, which cmkd takes as an extension: some
// tokens know OAEP with no other hash. RFC 8017 leaves its security untouched
// by collisions of SHA-1.
const oaepSHA1 types.KeyEncryptionMechanism = "RSAES_OAEP_SHA_1"

// Recipient makes GenerateDataKey, GenerateDataKeyPair, GenerateRandom, Decrypt
// and DeriveSharedSecret of a client it is attached to work without plaintext
// on the wire: it adds the process's public key to the request as Recipient,
// and replaces CiphertextForRecipient in the answer by the plaintext inside.
// Requests that have a Recipient of their own are left alone.
//
// A Recipient is safe for concurrent use.
type Recipient struct {
	key *recipientKey
	// algorithm is what the daemon's token is known to do; nil before the
	// first answer.
	algorithm atomic.Pointer[types.KeyEncryptionMechanism]
}

// NewRecipient returns a recipient with an RSA key pair of 2048, 3072 or 4096
// bits. The pair is made at the first call for its size, which takes 50 ms to a
// second, and serves until the process ends; it is never stored.
func NewRecipient(bits int) (*Recipient, error) {
	key, err := processKey(bits)
	if err != nil {
		return nil, err
	}
	return &Recipient{key: key}, nil
}

// Attach is an option for [kms.NewFromConfig], or for a single call.
func (r *Recipient) Attach(o *kms.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(r, middleware.Before)
	})
}

// ID implements [middleware.InitializeMiddleware].
func (r *Recipient) ID() string { return "cmkdRecipient" }

// HandleInitialize implements [middleware.InitializeMiddleware].
func (r *Recipient) HandleInitialize(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	out middleware.InitializeOutput, md middleware.Metadata, err error,
) {
	algorithm := types.KeyEncryptionMechanismRsaesOaepSha256
	known := r.algorithm.Load()
	if known != nil {
		algorithm = *known
	}
	params, addressed := r.address(in.Parameters, algorithm)
	if !addressed {
		return next.HandleInitialize(ctx, in)
	}
	out, md, err = next.HandleInitialize(ctx, middleware.InitializeInput{Parameters: params})
	if algorithm != oaepSHA1 && mayLackAlgorithm(err, known != nil) {
		params, _ = r.address(in.Parameters, oaepSHA1)
		out1, md1, err1 := next.HandleInitialize(ctx, middleware.InitializeInput{Parameters: params})
		if err1 == nil { // else it was not the algorithm: the first error tells
			algorithm, known = oaepSHA1, nil
			out, md, err = out1, md1, nil
		}
	}
	if err != nil {
		return out, md, err
	}
	if known == nil {
		r.algorithm.Store(&algorithm)
	}
	return out, md, r.open(out.Result, algorithm)
}

// mayLackAlgorithm reports whether err may come from a token without OAEP with
// SHA-256. Once that is known to work, a ValidationException means something
// else.
func mayLackAlgorithm(err error, works bool) bool {
	var apiErr smithy.APIError
	if !errors.As(err, &apiErr) {
		return false
	}
	switch apiErr.ErrorCode() {
	case "UnsupportedOperationException":
		return true
	case "ValidationException":
		return !works
	default:
		return false
	}
}

// address returns a copy of params with r as its recipient, false if the
// operation has none or the caller has named one.
func (r *Recipient) address(params any, algorithm types.KeyEncryptionMechanism) (any, bool) {
	info := &types.RecipientInfo{AttestationDocument: r.key.public, KeyEncryptionAlgorithm: algorithm}
	switch in := params.(type) {
	case *kms.GenerateDataKeyInput:
		c := *in
		return &c, setRecipient(&c.Recipient, info)
	case *kms.GenerateDataKeyPairInput:
		c := *in
		return &c, setRecipient(&c.Recipient, info)
	case *kms.GenerateRandomInput:
		c := *in
		return &c, setRecipient(&c.Recipient, info)
	case *kms.DecryptInput:
		c := *in
		return &c, setRecipient(&c.Recipient, info)
	case *kms.DeriveSharedSecretInput:
		c := *in
		return &c, setRecipient(&c.Recipient, info)
	default:
		return nil, false
	}
}

func setRecipient(field **types.RecipientInfo, info *types.RecipientInfo) bool {
	if *field != nil {
		return false
	}
	*field = info
	return true
}

// open replaces the ciphertext for r in an answer by its plaintext.
func (r *Recipient) open(result any, algorithm types.KeyEncryptionMechanism) error {
	switch out := result.(type) {
	case *kms.GenerateDataKeyOutput:
		return r.openInto(&out.Plaintext, &out.CiphertextForRecipient, algorithm)
	case *kms.GenerateDataKeyPairOutput:
		return r.openInto(&out.PrivateKeyPlaintext, &out.CiphertextForRecipient, algorithm)
	case *kms.GenerateRandomOutput:
		return r.openInto(&out.Plaintext, &out.CiphertextForRecipient, algorithm)
	case *kms.DecryptOutput:
		return r.openInto(&out.Plaintext, &out.CiphertextForRecipient, algorithm)
	case *kms.DeriveSharedSecretOutput:
		return r.openInto(&out.SharedSecret, &out.CiphertextForRecipient, algorithm)
	default:
		return fmt.Errorf("unexpected answer %T", result)
	}
}

func (r *Recipient) openInto(plaintext, ciphertext *[]byte, algorithm types.KeyEncryptionMechanism) error {
	if len(*ciphertext) == 0 {
		return errors.New("the answer has no CiphertextForRecipient: the service ignored the recipient key")
	}
	opened, err := r.key.open(*ciphertext, algorithm)
	if err != nil {
		return err
	}
	*plaintext, *ciphertext = cutPadding(opened), nil
	return nil
}
