package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/socket/kmsapi"
)

// signing is what Sign and Verify have in common.
type signing struct {
	keyID       string
	algorithm   backends.Algorithm
	messageType kmsapi.MessageType
	message     []byte
	grantTokens []string
}

// admitSigning admits the call and checks the message against the algorithm.
func (s *Service) admitSigning(ctx context.Context, c *journal.Call, in *signing) (*access.Key, backends.Key, error) {
	d := &access.Demand{KeyID: in.keyID, Algorithm: in.algorithm, GrantTokens: in.grantTokens}
	if in.messageType == "" {
		in.messageType, d.Presets = kmsapi.MessageTypeRaw, []string{"kms:MessageType"}
	}
	d.Say("kms:SigningAlgorithm", string(in.algorithm))
	d.Say("kms:MessageType", string(in.messageType))
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return nil, backends.Key{}, err
	}
	if err := checkMessage(k.Spec, in); err != nil {
		return nil, backends.Key{}, err
	}
	ref, err := k.CurrentRef()
	return k, ref, err
}

// checkMessage checks the message type against the key and the algorithm, and
// the length of a digest against the algorithm.
func checkMessage(spec backends.KeySpec, in *signing) error {
	digest := in.messageType == kmsapi.MessageTypeDigest
	external := in.messageType == kmsapi.MessageTypeExternalMU
	switch pure := in.algorithm == "ML_DSA_SHAKE_256"; {
	case pure && digest, !pure && external:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "Message type %s is incompatible with key spec %s.", in.messageType, spec)
	case in.algorithm == "ED25519_SHA_512" && digest, in.algorithm == "ED25519_PH_SHA_512" && !digest:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "Message type %s is incompatible with algorithm %s.", in.messageType, in.algorithm)
	case external && len(in.message) != 64:
		return kmsapi.Errorf(kmsapi.CodeValidationException, "Message is invalid length for algorithm %s.", in.algorithm)
	case digest && len(in.message) != keys.SigningHash[in.algorithm].Size():
		return kmsapi.Errorf(kmsapi.CodeValidationException, "Digest is invalid length for algorithm %s.", in.algorithm)
	}
	return nil
}

func (s methods) Sign(ctx context.Context, c *journal.Call, in *kmsapi.SignRequest) (*kmsapi.SignResponse, error) {
	call := &signing{
		keyID: in.KeyId, algorithm: backends.Algorithm(in.SigningAlgorithm), messageType: in.MessageType,
		message: in.Message, grantTokens: in.GrantTokens,
	}
	k, ref, err := s.admitSigning(ctx, c, call)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.Backend.Sign(ctx, &backends.SignRequest{
		Key: ref, Algorithm: call.algorithm, Type: backends.MessageType(call.messageType), Message: in.Message,
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.SignResponse{KeyId: k.ARN, Signature: made.Signature, SigningAlgorithm: in.SigningAlgorithm}, nil
}

func (s methods) Verify(ctx context.Context, c *journal.Call, in *kmsapi.VerifyRequest) (*kmsapi.VerifyResponse, error) {
	call := &signing{
		keyID: in.KeyId, algorithm: backends.Algorithm(in.SigningAlgorithm), messageType: in.MessageType,
		message: in.Message, grantTokens: in.GrantTokens,
	}
	k, ref, err := s.admitSigning(ctx, c, call)
	if err != nil {
		return nil, err
	}
	made, err := k.Backend.Verify(ctx, &backends.VerifyRequest{
		Key: ref, Algorithm: call.algorithm, Type: backends.MessageType(call.messageType),
		Message: in.Message, Signature: in.Signature,
	})
	if err != nil {
		return nil, err
	}
	if !made.Valid {
		return nil, &kmsapi.Error{Code: kmsapi.CodeKMSInvalidSignatureException}
	}
	if in.DryRun { // a call with another signature would not have succeeded
		return nil, errDryRun()
	}
	return &kmsapi.VerifyResponse{KeyId: k.ARN, SignatureValid: true, SigningAlgorithm: in.SigningAlgorithm}, nil
}
