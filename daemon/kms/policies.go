package kms

import (
	"context"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func checkPolicyName(name string) error {
	if name != "" && name != access.PolicyName {
		return kmsapi.Errorf(kmsapi.CodeNotFoundException, "No such policy exists")
	}
	return nil
}

func (s methods) GetKeyPolicy(ctx context.Context, c *journal.Call, in *kmsapi.GetKeyPolicyRequest) (*kmsapi.GetKeyPolicyResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	return &kmsapi.GetKeyPolicyResponse{Policy: k.Policy, PolicyName: access.PolicyName}, nil
}

func (s methods) PutKeyPolicy(ctx context.Context, c *journal.Call, in *kmsapi.PutKeyPolicyRequest) (*kmsapi.PutKeyPolicyResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{
		access.SaysBool("kms:BypassPolicyLockoutSafetyCheck", in.BypassPolicyLockoutSafetyCheck),
	}})
	if err != nil {
		return nil, err
	}
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	text, err := s.NewPolicy(ctx, c, in.Policy, in.BypassPolicyLockoutSafetyCheck, k.Key)
	if err != nil {
		return nil, err
	}
	return &kmsapi.PutKeyPolicyResponse{}, s.rewrite(ctx, c, k, func(_ *store.Tx, row *store.Key) error {
		row.Policy = text
		return nil
	})
}

func (s methods) ListKeyPolicies(ctx context.Context, c *journal.Call, in *kmsapi.ListKeyPoliciesRequest) (*kmsapi.ListKeyPoliciesResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId})
	if err != nil {
		return nil, err
	}
	if _, err := paging.ListOf(c, k.ID).DecodeMarker(in.Marker); err != nil {
		return nil, err
	}
	return &kmsapi.ListKeyPoliciesResponse{PolicyNames: []string{access.PolicyName}}, nil
}
