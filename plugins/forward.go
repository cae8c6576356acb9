package plugins

import (
	"context"

	"cmkd/backends"
)

// Host does whatever a backend can do; the plugin says what it cannot.
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
} = (*Host)(nil)

// call makes the call on the plugin of h; see [Host.do].
func (m method[In, Out]) call(ctx context.Context, h *Host, in *In) (*Out, error) {
	memory := new(struct { // one piece
		out     Out
		attempt attempt
	})
	if err := h.do(ctx, &memory.attempt, m.row, in, &memory.out); err != nil {
		return nil, err
	}
	return &memory.out, nil
}

// Info implements [backends.Backend].
func (h *Host) Info(ctx context.Context, in *backends.InfoRequest) (*backends.InfoAnswer, error) {
	return info.call(ctx, h, in)
}

// CreateKey implements [backends.Backend].
func (h *Host) CreateKey(ctx context.Context, in *backends.CreateKeyRequest) (*backends.CreateKeyAnswer, error) {
	return createKey.call(ctx, h, in)
}

// CheckKey implements [backends.Backend].
func (h *Host) CheckKey(ctx context.Context, in *backends.CheckKeyRequest) (*backends.CheckKeyAnswer, error) {
	return checkKey.call(ctx, h, in)
}

// DestroyKey implements [backends.Backend].
func (h *Host) DestroyKey(ctx context.Context, in *backends.DestroyKeyRequest) (*backends.DestroyKeyAnswer, error) {
	return destroyKey.call(ctx, h, in)
}

// ListKeys implements [backends.Backend].
func (h *Host) ListKeys(ctx context.Context, in *backends.ListKeysRequest) (*backends.ListKeysAnswer, error) {
	return listKeys.call(ctx, h, in)
}

// Encrypt implements [backends.Cipher].
func (h *Host) Encrypt(ctx context.Context, in *backends.EncryptRequest) (*backends.EncryptAnswer, error) {
	return encrypt.call(ctx, h, in)
}

// Decrypt implements [backends.Cipher].
func (h *Host) Decrypt(ctx context.Context, in *backends.DecryptRequest) (*backends.DecryptAnswer, error) {
	return decrypt.call(ctx, h, in)
}

// ReEncrypt implements [backends.ReEncrypter].
func (h *Host) ReEncrypt(ctx context.Context, in *backends.ReEncryptRequest) (*backends.EncryptAnswer, error) {
	return reEncrypt.call(ctx, h, in)
}

// GenerateDataKey implements [backends.DataKeyMaker].
func (h *Host) GenerateDataKey(ctx context.Context, in *backends.GenerateDataKeyRequest) (*backends.GenerateDataKeyAnswer, error) {
	return generateDataKey.call(ctx, h, in)
}

// GenerateDataKeyPair implements [backends.DataKeyMaker].
func (h *Host) GenerateDataKeyPair(ctx context.Context, in *backends.GenerateDataKeyPairRequest) (*backends.GenerateDataKeyAnswer, error) {
	return generateDataKeyPair.call(ctx, h, in)
}

// OpenDataKey implements [backends.DataKeyMaker].
func (h *Host) OpenDataKey(ctx context.Context, in *backends.OpenDataKeyRequest) (*backends.OpenDataKeyAnswer, error) {
	return openDataKey.call(ctx, h, in)
}

// GenerateRandom implements [backends.Randomizer].
func (h *Host) GenerateRandom(ctx context.Context, in *backends.GenerateRandomRequest) (*backends.GenerateRandomAnswer, error) {
	return generateRandom.call(ctx, h, in)
}

// Sign implements [backends.Signer].
func (h *Host) Sign(ctx context.Context, in *backends.SignRequest) (*backends.SignAnswer, error) {
	return sign.call(ctx, h, in)
}

// Verify implements [backends.Signer].
func (h *Host) Verify(ctx context.Context, in *backends.VerifyRequest) (*backends.VerifyAnswer, error) {
	return verify.call(ctx, h, in)
}

// GenerateMAC implements [backends.MACer].
func (h *Host) GenerateMAC(ctx context.Context, in *backends.MACRequest) (*backends.MACAnswer, error) {
	return generateMAC.call(ctx, h, in)
}

// VerifyMAC implements [backends.MACer].
func (h *Host) VerifyMAC(ctx context.Context, in *backends.VerifyMACRequest) (*backends.VerifyAnswer, error) {
	return verifyMAC.call(ctx, h, in)
}

// DeriveSharedSecret implements [backends.Agreer].
func (h *Host) DeriveSharedSecret(ctx context.Context, in *backends.DeriveSharedSecretRequest) (*backends.DeriveSharedSecretAnswer, error) {
	return deriveSharedSecret.call(ctx, h, in)
}

// ImportKey implements [backends.Importer].
func (h *Host) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	return importKey.call(ctx, h, in)
}

// Encapsulate implements [backends.Encapsulator].
func (h *Host) Encapsulate(ctx context.Context, in *backends.EncapsulateRequest) (*backends.EncapsulateAnswer, error) {
	return encapsulate.call(ctx, h, in)
}

// Decapsulate implements [backends.Encapsulator].
func (h *Host) Decapsulate(ctx context.Context, in *backends.DecapsulateRequest) (*backends.DecapsulateAnswer, error) {
	return decapsulate.call(ctx, h, in)
}
