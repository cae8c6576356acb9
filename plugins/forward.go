package plugins

import (
	"context"

	"cmkd/backends"
)

// Calls are those of every interface of package backends, made by a [Host], on the
// members of a [Group], or on one process. What a plugin does not do answers
// [backends.Unsupported].
type Calls struct{ by maker }

// maker makes a call in the memory of a. The error is a [backends.Error].
type maker interface {
	do(ctx context.Context, a *attempt, r *row, in, out any) error
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

// call makes the call.
func (m method[In, Out]) call(ctx context.Context, by maker, in *In) (*Out, error) {
	memory := new(struct { // one piece
		out     Out
		attempt attempt
	})
	if err := by.do(ctx, &memory.attempt, m.row, in, &memory.out); err != nil {
		return nil, err
	}
	return &memory.out, nil
}

// Info implements [backends.Backend].
func (c Calls) Info(ctx context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	return info.call(ctx, c.by, in)
}

// CreateKey implements [backends.Backend].
func (c Calls) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	return createKey.call(ctx, c.by, in)
}

// CheckKey implements [backends.Backend].
func (c Calls) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	return checkKey.call(ctx, c.by, in)
}

// DestroyKey implements [backends.Backend].
func (c Calls) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return destroyKey.call(ctx, c.by, in)
}

// ListKeys implements [backends.Backend].
func (c Calls) ListKeys(ctx context.Context, in *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	return listKeys.call(ctx, c.by, in)
}

// Encrypt implements [backends.Cipher].
func (c Calls) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	return encrypt.call(ctx, c.by, in)
}

// Decrypt implements [backends.Cipher].
func (c Calls) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	return decrypt.call(ctx, c.by, in)
}

// ReEncrypt implements [backends.ReEncrypter].
func (c Calls) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	return reEncrypt.call(ctx, c.by, in)
}

// GenerateDataKey implements [backends.DataKeyMaker].
func (c Calls) GenerateDataKey(ctx context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	return generateDataKey.call(ctx, c.by, in)
}

// GenerateDataKeyPair implements [backends.DataKeyMaker].
func (c Calls) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	return generateDataKeyPair.call(ctx, c.by, in)
}

// OpenDataKey implements [backends.DataKeyMaker].
func (c Calls) OpenDataKey(ctx context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	return openDataKey.call(ctx, c.by, in)
}

// GenerateRandom implements [backends.Randomizer].
func (c Calls) GenerateRandom(ctx context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	return generateRandom.call(ctx, c.by, in)
}

// Sign implements [backends.Signer].
func (c Calls) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	return sign.call(ctx, c.by, in)
}

// Verify implements [backends.Signer].
func (c Calls) Verify(ctx context.Context, in *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	return verify.call(ctx, c.by, in)
}

// GenerateMAC implements [backends.MACer].
func (c Calls) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	return generateMAC.call(ctx, c.by, in)
}

// VerifyMAC implements [backends.MACer].
func (c Calls) VerifyMAC(ctx context.Context, in *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	return verifyMAC.call(ctx, c.by, in)
}

// DeriveSharedSecret implements [backends.Agreer].
func (c Calls) DeriveSharedSecret(ctx context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	return deriveSharedSecret.call(ctx, c.by, in)
}

// ImportKey implements [backends.Importer].
func (c Calls) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	return importKey.call(ctx, c.by, in)
}

// Encapsulate implements [backends.Encapsulator].
func (c Calls) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	return encapsulate.call(ctx, c.by, in)
}

// Decapsulate implements [backends.Encapsulator].
func (c Calls) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	return decapsulate.call(ctx, c.by, in)
}
