package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	asked     sync.Once // the daemon, which algorithms its token has
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
	var daemon kms.HTTPClient
	if o.BaseEndpoint != nil && *o.BaseEndpoint == endpoint {
		daemon = o.HTTPClient
	}
	m := middleware.InitializeMiddlewareFunc("cmkdRecipient",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			return r.handle(ctx, in, next, daemon)
		})
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		if _, limited := stack.Initialize.Get(timeoutID); limited {
			return stack.Initialize.Insert(m, timeoutID, middleware.After)
		}
		return stack.Initialize.Add(m, middleware.Before)
	})
}

// askTimeout bounds the question, for which other calls wait.
const askTimeout = 10 * time.Second

// recipientPath is where the daemon says which algorithms its tokens have: a JSON
// object with an array "algorithms". Daemons before it answer with an error.
const recipientPath = "/recipient"

// ask asks the daemon once, so that no call fails for the sake of an answer, which
// the audit trail would show. Without one the first call finds out.
func (r *Recipient) ask(ctx context.Context, daemon kms.HTTPClient) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+recipientPath, nil)
	if err != nil {
		return
	}
	resp, err := daemon.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var answer struct {
		Algorithms []types.KeyEncryptionMechanism `json:"algorithms"`
	}
	const most = 1 << 16
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&answer) != nil {
		return
	}
	for _, a := range []types.KeyEncryptionMechanism{types.KeyEncryptionMechanismRsaesOaepSha256, oaepSHA1} {
		if slices.Contains(answer.Algorithms, a) {
			r.algorithm.Store(&a)
			return
		}
	}
}

// handle makes one call with the recipient in it. daemon is nil where there is
// nobody to ask.
func (r *Recipient) handle(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler, daemon kms.HTTPClient) (
	out middleware.InitializeOutput, md middleware.Metadata, err error,
) {
	if _, addressed := r.address(in.Parameters, oaepSHA1); addressed && daemon != nil {
		r.asked.Do(func() { r.ask(ctx, daemon) })
	}
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
