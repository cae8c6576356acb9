package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

func (s methods) DeriveSharedSecret(ctx context.Context, c *journal.Call, in *kmsapi.DeriveSharedSecretRequest) (*kmsapi.DeriveSharedSecretResponse, error) {
	recipient, err := s.recipient(c, in.Recipient)
	if err != nil {
		return nil, err
	}
	if recipient != nil {
		recipient.ThroughPlugin = true // callers without a recipient get the secret in the clear
	}
	k, err := s.Admit(ctx, c, &access.Demand{
		KeyID: in.KeyId, Algorithm: backends.Algorithm(in.KeyAgreementAlgorithm), GrantTokens: in.GrantTokens,
		Conditions: []access.Condition{access.Says("kms:KeyAgreementAlgorithm", in.KeyAgreementAlgorithm)},
	})
	if err != nil {
		return nil, err
	}
	ref, err := k.CurrentRef()
	if err != nil {
		return nil, err
	}
	made, err := k.Backend.DeriveSharedSecret(ctx, &backends.DeriveSharedSecretRequest{
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
		KeyId: k.ARN, SharedSecret: made.SharedSecret, CiphertextForRecipient: made.ForRecipient,
		KeyAgreementAlgorithm: in.KeyAgreementAlgorithm, KeyOrigin: k.Origin,
	}, nil
}

// admitKEM admits a call to a key encapsulation key.
func (s *Service) admitKEM(ctx context.Context, c *journal.Call, keyID string, algorithm backends.Algorithm, grantTokens []string) (*access.Key, backends.Key, error) {
	k, err := s.Admit(ctx, c, &access.Demand{
		KeyID: keyID, Algorithm: algorithm, GrantTokens: grantTokens,
		Conditions: []access.Condition{access.Says("kms:EncapsulationAlgorithm", algorithm)},
	})
	if err != nil {
		return nil, backends.Key{}, err
	}
	ref, err := k.CurrentRef()
	return k, ref, err
}

func (s methods) Encapsulate(ctx context.Context, c *journal.Call, in *kmsapi.EncapsulateRequest) (*kmsapi.EncapsulateResponse, error) {
	algorithm := backends.Algorithm(in.EncapsulationAlgorithm)
	k, ref, err := s.admitKEM(ctx, c, in.KeyId, algorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.Backend.Encapsulate(ctx, &backends.EncapsulateRequest{Key: ref, Algorithm: algorithm})
	if err != nil {
		return nil, err
	}
	return &kmsapi.EncapsulateResponse{
		KeyId: k.ARN, EncapsulationAlgorithm: in.EncapsulationAlgorithm,
		SharedSecret: made.SharedSecret, SharedSecretCiphertextBlob: made.Ciphertext,
	}, nil
}

func (s methods) Decapsulate(ctx context.Context, c *journal.Call, in *kmsapi.DecapsulateRequest) (*kmsapi.DecapsulateResponse, error) {
	algorithm := backends.Algorithm(in.EncapsulationAlgorithm)
	k, ref, err := s.admitKEM(ctx, c, in.KeyId, algorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.Backend.Decapsulate(ctx, &backends.DecapsulateRequest{
		Key: ref, Algorithm: algorithm, Ciphertext: in.SharedSecretCiphertextBlob,
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.DecapsulateResponse{KeyId: k.ARN, EncapsulationAlgorithm: in.EncapsulationAlgorithm, SharedSecret: made.SharedSecret}, nil
}
