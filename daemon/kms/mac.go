package kms

import (
	"context"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/socket/kmsapi"
)

func (s *Service) admitMAC(ctx context.Context, c *journal.Call, keyID string, algorithm backends.Algorithm, grantTokens []string) (*access.Key, backends.Key, error) {
	d := &access.Demand{KeyID: keyID, Algorithm: algorithm, GrantTokens: grantTokens}
	d.Say("kms:MacAlgorithm", string(algorithm))
	k, err := s.Admit(ctx, c, d)
	if err != nil {
		return nil, backends.Key{}, err
	}
	ref, err := k.CurrentRef()
	return k, ref, err
}

func (s methods) GenerateMac(ctx context.Context, c *journal.Call, in *kmsapi.GenerateMacRequest) (*kmsapi.GenerateMacResponse, error) {
	algorithm := backends.Algorithm(in.MacAlgorithm)
	k, ref, err := s.admitMAC(ctx, c, in.KeyId, algorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	made, err := k.Backend.GenerateMAC(ctx, &backends.MACRequest{
		Key: ref, Algorithm: algorithm, Message: in.Message,
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.GenerateMacResponse{KeyId: k.ARN, Mac: made.MAC, MacAlgorithm: in.MacAlgorithm}, nil
}

func (s methods) VerifyMac(ctx context.Context, c *journal.Call, in *kmsapi.VerifyMacRequest) (*kmsapi.VerifyMacResponse, error) {
	algorithm := backends.Algorithm(in.MacAlgorithm)
	k, ref, err := s.admitMAC(ctx, c, in.KeyId, algorithm, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	made, err := k.Backend.VerifyMAC(ctx, &backends.VerifyMACRequest{
		Key: ref, Algorithm: algorithm, Message: in.Message, MAC: in.Mac,
	})
	if err != nil {
		return nil, err
	}
	if !made.Valid {
		return nil, &kmsapi.Error{Code: kmsapi.CodeKMSInvalidMacException}
	}
	if in.DryRun { // a call with another MAC would not have succeeded
		return nil, errDryRun()
	}
	return &kmsapi.VerifyMacResponse{KeyId: k.ARN, MacValid: true, MacAlgorithm: in.MacAlgorithm}, nil
}
