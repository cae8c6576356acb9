package plugins

import (
	"context"

	"cmkd/backends"
	"cmkd/plugins/internal/stream"
)

// Calls are those of every interface of package backends, made by a [Host], on the
// members of a [Group], or on one process. What a plugin does not do answers
// [backends.Unsupported].
type Calls struct{ by maker }

// maker makes a call in the memory of a. The error is a [backends.Error].
type maker interface {
	do(ctx context.Context, a *attempt, r *stream.Row, in, out any) error
}

var _ interface {
	backends.Backend
	backends.Cipher
	backends.ReEncrypter
	backends.DataKeyMaker
	backends.Randomizer
	backends.Signer
	backends.MACer
	backends.Agreer
	backends.Importer
	backends.Encapsulator
} = Calls{}

// forward makes a call of the method.
func forward[In, Out any](ctx context.Context, by maker, m stream.Method[In, Out], in *In) (*Out, error) {
	memory := new(struct { // one piece
		out     Out
		attempt attempt
	})
	if err := by.do(ctx, &memory.attempt, m.Row, in, &memory.out); err != nil {
		return nil, err
	}
	return &memory.out, nil
}

// Info implements [backends.Backend].
func (c Calls) Info(ctx context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	return forward(ctx, c.by, stream.Info, in)
}

// CreateKey implements [backends.Backend].
func (c Calls) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	return forward(ctx, c.by, stream.CreateKey, in)
}

// CheckKey implements [backends.Backend].
func (c Calls) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	return forward(ctx, c.by, stream.CheckKey, in)
}

// DestroyKey implements [backends.Backend].
func (c Calls) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return forward(ctx, c.by, stream.DestroyKey, in)
}

// ListKeys implements [backends.Backend].
func (c Calls) ListKeys(ctx context.Context, in *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	return forward(ctx, c.by, stream.ListKeys, in)
}

// Encrypt implements [backends.Cipher].
func (c Calls) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	return forward(ctx, c.by, stream.Encrypt, in)
}

// Decrypt implements [backends.Cipher].
func (c Calls) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	return forward(ctx, c.by, stream.Decrypt, in)
}

// ReEncrypt implements [backends.ReEncrypter].
func (c Calls) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	return forward(ctx, c.by, stream.ReEncrypt, in)
}

// GenerateDataKey implements [backends.DataKeyMaker].
func (c Calls) GenerateDataKey(ctx context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	return forward(ctx, c.by, stream.GenerateDataKey, in)
}

// GenerateDataKeyPair implements [backends.DataKeyMaker].
func (c Calls) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	return forward(ctx, c.by, stream.GenerateDataKeyPair, in)
}

// OpenDataKey implements [backends.DataKeyMaker].
func (c Calls) OpenDataKey(ctx context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	return forward(ctx, c.by, stream.OpenDataKey, in)
}

// GenerateRandom implements [backends.Randomizer].
func (c Calls) GenerateRandom(ctx context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	return forward(ctx, c.by, stream.GenerateRandom, in)
}

// Sign implements [backends.Signer].
func (c Calls) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	return forward(ctx, c.by, stream.Sign, in)
}

// Verify implements [backends.Signer].
func (c Calls) Verify(ctx context.Context, in *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	return forward(ctx, c.by, stream.Verify, in)
}

// GenerateMAC implements [backends.MACer].
func (c Calls) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	return forward(ctx, c.by, stream.GenerateMAC, in)
}

// VerifyMAC implements [backends.MACer].
func (c Calls) VerifyMAC(ctx context.Context, in *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	return forward(ctx, c.by, stream.VerifyMAC, in)
}

// DeriveSharedSecret implements [backends.Agreer].
func (c Calls) DeriveSharedSecret(ctx context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	return forward(ctx, c.by, stream.DeriveSharedSecret, in)
}

// ImportKey implements [backends.Importer].
func (c Calls) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	return forward(ctx, c.by, stream.ImportKey, in)
}

// Encapsulate implements [backends.Encapsulator].
func (c Calls) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	return forward(ctx, c.by, stream.Encapsulate, in)
}

// Decapsulate implements [backends.Encapsulator].
func (c Calls) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	return forward(ctx, c.by, stream.Decapsulate, in)
}
