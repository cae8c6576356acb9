package kms

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// maxGrants is AWS's quota of grants for a key.
const maxGrants = 50_000

func (s methods) CreateGrant(ctx context.Context, c *journal.Call, in *kmsapi.CreateGrantRequest) (*kmsapi.CreateGrantResponse, error) {
	g, err := s.newGrant(c, in)
	if err != nil {
		return nil, err
	}
	k, err := s.Admit(ctx, c, &access.Demand{
		KeyID: in.KeyId, GrantTokens: in.GrantTokens, Grant: g,
		Context: access.ConstraintContext(g), Conditions: grantConditions(g),
	})
	if err != nil {
		return nil, err
	}
	g.Region, g.KeyID = k.Region, k.ID
	for _, op := range in.Operations {
		if !keys.ActionNamed(string(op)).Grantable(k.Spec, k.Usage) {
			return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
				"Operation %s is not supported for a grant on a key with key spec %s and key usage %s.", op, k.Spec, k.Usage)
		}
	}
	if k.Spec != keys.SymmetricDefault && (g.ContextEquals != nil || g.ContextSubset != nil) {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"Encryption context constraints are supported only on grants for symmetric encryption keys.")
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if err := s.putGrant(tx, c, k, g); err != nil {
			return err
		}
		c.Respond(journal.KeyElements{KeyID: k.ARN, GrantID: g.ID})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &kmsapi.CreateGrantResponse{GrantId: g.ID, GrantToken: access.NewGrantToken(g.ID)}, nil
}

// putGrant stores the grant, unless one of the same name and content is there:
// then that is the grant.
func (s *Service) putGrant(tx *store.Tx, c *journal.Call, k *access.Key, g *store.Grant) error {
	if _, err := s.Readmit(tx, c, k); err != nil {
		return err
	}
	if g.Name != "" {
		for old := range tx.GrantsByName(k.Region, k.ID, g.Name) {
			if sameGrant(old, g) {
				g.ID = old.ID
				return nil
			}
		}
	}
	if tx.GrantCount(k.Region, k.ID) >= s.limits.GrantsPerKey {
		return kmsapi.Errorf(kmsapi.CodeLimitExceededException, "The key %s has %d grants, the most that a key may have.", k.ARN, s.limits.GrantsPerKey)
	}
	return tx.PutGrant(g)
}

func sameGrant(a, b *store.Grant) bool {
	return a.Grantee == b.Grantee && a.Retiring == b.Retiring && a.SourceArn == b.SourceArn &&
		a.GranteeIsService == b.GranteeIsService && a.RetiringIsService == b.RetiringIsService &&
		slices.Equal(slices.Sorted(slices.Values(a.Operations)), slices.Sorted(slices.Values(b.Operations))) &&
		maps.Equal(a.ContextEquals, b.ContextEquals) && maps.Equal(a.ContextSubset, b.ContextSubset)
}

// newGrant makes the grant that the request asks for.
func (s *Service) newGrant(c *journal.Call, in *kmsapi.CreateGrantRequest) (*store.Grant, error) {
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	g := &store.Grant{
		ID: hex.EncodeToString(id[:]), Name: in.Name, Created: s.Now(),
		Grantee: in.GranteePrincipal, Retiring: in.RetiringPrincipal,
		Issuer: c.Caller.Principal.DisplayARN(),
	}
	if in.GranteeServicePrincipal != "" {
		if in.GranteePrincipal != "" {
			return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "GranteePrincipal and GranteeServicePrincipal cannot both be specified.")
		}
		g.Grantee, g.GranteeIsService = in.GranteeServicePrincipal, true
	}
	if in.RetiringServicePrincipal != "" {
		if in.RetiringPrincipal != "" {
			return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "RetiringPrincipal and RetiringServicePrincipal cannot both be specified.")
		}
		g.Retiring, g.RetiringIsService = in.RetiringServicePrincipal, true
	}
	if g.Grantee == "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "A grantee principal must be specified.")
	}
	if err := s.checkGrantPrincipal(g.Grantee, g.GranteeIsService); err != nil {
		return nil, err
	}
	if err := s.checkGrantPrincipal(g.Retiring, g.RetiringIsService); g.Retiring != "" && err != nil {
		return nil, err
	}
	switch {
	case len(in.Operations) == 0:
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Grants must contain an operation.")
	case !slices.ContainsFunc(in.Operations, func(op kmsapi.GrantOperation) bool { return op != kmsapi.GrantOperationCreateGrant }):
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Grants must not contain only the CreateGrant operation.")
	}
	for _, op := range in.Operations {
		if !slices.Contains(g.Operations, string(op)) {
			g.Operations = append(g.Operations, string(op))
		}
	}
	if err := constrain(g, in.Constraints); err != nil {
		return nil, err
	}
	// https://docs.aws.amazon.com/kms/latest/developerguide/create-grant-overview.html
	if g.GranteeIsService && (g.SourceArn == "" || g.Retiring == "") {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"A grant to a GranteeServicePrincipal must have a SourceArn constraint and a RetiringPrincipal or RetiringServicePrincipal.")
	}
	return g, nil
}

// checkGrantPrincipal refuses who cannot be a grantee or a retiring principal. A
// service must be called by its name: an ARN would give the grant to its user.
func (s *Service) checkGrantPrincipal(id string, service bool) error {
	if service && policy.IsService(id) || !service && s.principalExists(id) {
		return nil
	}
	return errNoPrincipal(id)
}

func errNoPrincipal(id string) error {
	return kmsapi.Errorf(kmsapi.CodeInvalidArnException, "ARN does not refer to a valid principal: %s", id)
}

// principalExists reports whether the ARN can be a grantee or a retiring
// principal.
func (s *Service) principalExists(arn string) bool {
	return s.isPrincipal(arn) && s.PrincipalExists(arn)
}

// isPrincipal reports whether the ARN is of a user, group, role or root of the
// account.
func (s *Service) isPrincipal(arn string) bool {
	name, ok := strings.CutPrefix(arn, keys.PrincipalARN(s.Account, ""))
	if !ok {
		name, ok = strings.CutPrefix(arn, keys.SessionARN(s.Account, ""))
		return ok && (strings.HasPrefix(name, "assumed-role/") || strings.HasPrefix(name, "federated-user/"))
	}
	kind, rest, _ := strings.Cut(name, "/")
	return name == "root" || rest != "" && (kind == "user" || kind == "group" || kind == "role")
}

// notForService is the condition of the operations on grants that an AWS service
// could call for the caller: here none does.
var notForService = access.Says("kms:GrantIsForAWSResource", "false")

func grantConditions(g *store.Grant) []access.Condition {
	grantee, retiring := "kms:GranteePrincipal", "kms:RetiringPrincipal"
	if g.GranteeIsService {
		grantee = "kms:GranteeServicePrincipal"
	}
	if g.RetiringIsService {
		retiring = "kms:RetiringServicePrincipal"
	}
	list := []access.Condition{
		notForService,
		access.SaysAll("kms:GrantOperations", g.Operations),
		access.Says(grantee, g.Grantee),
		access.SaysIf(retiring, g.Retiring),
		access.SaysIf("kms:GrantConstraintSourceArn", g.SourceArn),
	}
	return append(list, access.ConstraintConditions(g)...)
}

func (s methods) RevokeGrant(ctx context.Context, c *journal.Call, in *kmsapi.RevokeGrantRequest) (*kmsapi.RevokeGrantResponse, error) {
	k, err := s.Admit(ctx, c, &access.Demand{KeyID: in.KeyId, Conditions: []access.Condition{notForService}})
	if err != nil {
		return nil, err
	}
	if _, ok := c.View.Grant(k.Region, k.ID, in.GrantId); !ok {
		return nil, access.ErrGrantNotFound(in.GrantId)
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	return &kmsapi.RevokeGrantResponse{}, s.removeGrant(ctx, c, k.Region, k.ID, in.GrantId)
}

func (s *Service) removeGrant(ctx context.Context, c *journal.Call, region, keyID, id string) error {
	return s.Commit(ctx, c, func(tx *store.Tx) error {
		if !tx.DeleteGrant(region, keyID, id) {
			return access.ErrGrantNotFound(id)
		}
		c.Respond(journal.KeyElements{KeyID: s.KeyARN(region, keyID), GrantID: id})
		return nil
	})
}

func (s methods) RetireGrant(ctx context.Context, c *journal.Call, in *kmsapi.RetireGrantRequest) (*kmsapi.RetireGrantResponse, error) {
	g, err := s.grantToRetire(c, in)
	if err != nil {
		return nil, err
	}
	if err := s.AuthoriseRetire(c, g, in.KeyId); err != nil {
		return nil, err
	}
	if in.DryRun {
		return nil, errDryRun()
	}
	return &kmsapi.RetireGrantResponse{}, s.removeGrant(ctx, c, g.Region, g.KeyID, g.ID)
}

// grantToRetire finds the grant by its token, or by key and grant ID.
func (s *Service) grantToRetire(c *journal.Call, in *kmsapi.RetireGrantRequest) (*store.Grant, error) {
	if in.GrantToken != "" {
		if in.KeyId != "" || in.GrantId != "" {
			return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Specify a grant token, or a key and a grant ID, not both.")
		}
		id, ok := access.ParseGrantToken(in.GrantToken)
		if !ok {
			return nil, access.ErrInvalidGrantToken()
		}
		g, ok := c.View.GrantByID(c.Region, id)
		if !ok {
			return nil, access.ErrGrantNotFound(id)
		}
		return g, nil
	}
	if in.KeyId == "" || in.GrantId == "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Specify a grant token, or a key and a grant ID.")
	}
	key, _, err := s.Resolve(c.View, c.Region, in.KeyId, false)
	if err != nil {
		return nil, s.Conceal(c, &access.Demand{KeyID: in.KeyId}, err)
	}
	g, ok := c.View.Grant(key.Region, key.ID, in.GrantId)
	if !ok {
		return nil, s.Conceal(c, &access.Demand{KeyID: in.KeyId}, access.ErrGrantNotFound(in.GrantId))
	}
	return g, nil
}
