package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/socket/kmsapi"
)

func (s *Service) deriveSharedSecret(ctx context.Context, c *Call, in *kmsapi.DeriveSharedSecretRequest) (*kmsapi.DeriveSharedSecretResponse, error) {
	recipient, err := s.recipient(c, in.Recipient)
	if err != nil {
		return nil, err
	}
	if recipient != nil {
		recipient.ThroughPlugin = true // callers without a recipient get the secret in the clear
	}
	k, err := s.admit(ctx, c, &demand{
		keyID: in.KeyId, usage: backends.KeyAgreement, algorithm: string(in.KeyAgreementAlgorithm), grantTokens: in.GrantTokens,
		conditions: []condition{{"kms:KeyAgreementAlgorithm", []string{string(in.KeyAgreementAlgorithm)}}},
	})
	if err != nil {
		return nil, err
	}
	ref, err := k.currentRef()
	if err != nil {
		return nil, err
	}
	made, err := k.backend.DeriveSharedSecret(ctx, &backends.DeriveSharedSecretRequest{
		Key: ref, PublicKey: in.PublicKey, Recipient: recipient,
	})
	if backends.CodeOf(err) == backends.InvalidRequest {
		return nil, &kmsapi.Error{Code: kmsapi.CodeValidationException} // AWS gives no message
	}
	if err != nil {
		return nil, err
	}
	if in.DryRun { // the peer's key is checked by using it
		clear(made.SharedSecret)
		return nil, errDryRun()
	}
	return &kmsapi.DeriveSharedSecretResponse{
		KeyId: k.arn, SharedSecret: made.SharedSecret, CiphertextForRecipient: made.ForRecipient,
		KeyAgreementAlgorithm: in.KeyAgreementAlgorithm, KeyOrigin: kmsapi.OriginType(k.Origin),
	}, nil
}

// admitKEM admits a call to a key encapsulation key.
func (s *Service) admitKEM(ctx context.Context, c *Call, keyID string, algorithm kmsapi.EncapsulationAlgorithmSpec, grantTokens []string) (*key, backends.Key, error) {
	k, err := s.admit(ctx, c, &demand{
		keyID: keyID, usage: backends.EncapsulateDecapsulate, algorithm: string(algorithm), grantTokens: grantTokens,
		conditions: []condition{{"kms:EncapsulationAlgorithm", []string{string(algorithm)}}},
	})
	if err != nil {
		return nil, backends.Key{}, err
	}
	ref, err := k.currentRef()
	return k, ref, err
}

func (s *Service) encapsulate(ctx context.Context, c *Call, in *kmsapi.EncapsulateRequest) (*kmsapi.EncapsulateResponse, error) {
	k, ref, err := s.admitKEM(ctx, c, in.KeyId, in.EncapsulationAlgorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.backend.Encapsulate(ctx, &backends.EncapsulateRequest{Key: ref, Algorithm: backends.Algorithm(in.EncapsulationAlgorithm)})
	if err != nil {
		return nil, err
	}
	return &kmsapi.EncapsulateResponse{
		KeyId: k.arn, EncapsulationAlgorithm: in.EncapsulationAlgorithm,
		SharedSecret: made.SharedSecret, SharedSecretCiphertextBlob: made.Ciphertext,
	}, nil
}

func (s *Service) decapsulate(ctx context.Context, c *Call, in *kmsapi.DecapsulateRequest) (*kmsapi.DecapsulateResponse, error) {
	k, ref, err := s.admitKEM(ctx, c, in.KeyId, in.EncapsulationAlgorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.backend.Decapsulate(ctx, &backends.DecapsulateRequest{
		Key: ref, Algorithm: backends.Algorithm(in.EncapsulationAlgorithm), Ciphertext: in.SharedSecretCiphertextBlob,
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.DecapsulateResponse{KeyId: k.arn, EncapsulationAlgorithm: in.EncapsulationAlgorithm, SharedSecret: made.SharedSecret}, nil
}
