package kms

import (
	"context"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

func (s methods) ListGrants(ctx context.Context, c *journal.Call, in *kmsapi.ListGrantsRequest) (*kmsapi.ListGrantsResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{notForService}})
	if err != nil {
		return nil, err
	}
	if _, ok := c.View.Grant(k.Region, k.ID, in.GrantId); in.GrantId != "" && !ok {
		return nil, kmsapi.Errorf(kmsapi.CodeInvalidGrantIdException, "Grant ID %s is not valid: the key has no such grant.", in.GrantId)
	}
	l := paging.ListOf(c, k.ID)
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	rows := func(yield func(*store.Grant) bool) {
		for g := range c.View.GrantsOf(k.Region, k.ID, after) {
			if in.GrantId != "" && g.ID != in.GrantId ||
				in.GranteePrincipal != "" && (g.GranteeIsService || g.Grantee != in.GranteePrincipal) ||
				in.GranteeServicePrincipal != "" && (!g.GranteeIsService || g.Grantee != in.GranteeServicePrincipal) {
				continue
			}
			if !yield(g) {
				return
			}
		}
	}
	list, next := paging.Page(l, rows, paging.Limit(in.Limit, 50), func(g *store.Grant) string { return g.ID })
	return s.describeGrants(list, next), nil
}

func (s methods) ListRetirableGrants(_ context.Context, c *journal.Call, in *kmsapi.ListRetirableGrantsRequest) (*kmsapi.ListGrantsResponse, error) {
	if err := s.AuthoriseAccount(c, &access.Demand{}); err != nil {
		return nil, err
	}
	// RetiringServicePrincipal is for callers that are AWS services.
	if in.RetiringServicePrincipal != "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"Specify either RetiringPrincipal or RetiringServicePrincipal, but not both.")
	}
	// The principal need not exist: grants may be left of a user who has gone.
	principal := in.RetiringPrincipal
	if !s.isPrincipal(principal) {
		return nil, errNoPrincipal(principal)
	}
	l := paging.ListOf(c, principal)
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	rows := func(yield func(*store.Grant) bool) {
		for g := range c.View.GrantsByRetiring(c.Region, principal, after) {
			if !g.RetiringIsService && !yield(g) {
				return
			}
		}
	}
	list, next := paging.Page(l, rows, paging.Limit(in.Limit, 50), func(g *store.Grant) string { return g.ID })
	return s.describeGrants(list, next), nil
}

func (s *Service) describeGrants(list []*store.Grant, next string) *kmsapi.ListGrantsResponse {
	out := &kmsapi.ListGrantsResponse{Grants: []kmsapi.GrantListEntry{}, NextMarker: next, Truncated: next != ""}
	for _, g := range list {
		e := kmsapi.GrantListEntry{
			KeyId: s.KeyARN(g.Region, g.KeyID), GrantId: g.ID, Name: g.Name, CreationDate: g.Created,
			IssuingAccount: keys.RootARN(s.Account), Operations: named[kmsapi.GrantOperation](g.Operations),
		}
		if g.GranteeIsService {
			e.GranteeServicePrincipal = g.Grantee
		} else {
			e.GranteePrincipal = g.Grantee
		}
		if g.RetiringIsService {
			e.RetiringServicePrincipal = g.Retiring
		} else {
			e.RetiringPrincipal = g.Retiring
		}
		if g.ContextEquals != nil || g.ContextSubset != nil || g.SourceArn != "" {
			e.Constraints = &kmsapi.GrantConstraints{
				EncryptionContextEquals: g.ContextEquals, EncryptionContextSubset: g.ContextSubset, SourceArn: g.SourceArn,
			}
		}
		out.Grants = append(out.Grants, e)
	}
	return out
}
