package access

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// authorise decides whether the caller may do what d demands of the key, by
// the key policy, the caller's identity policies and the key's grants.
func (s *Access) authorise(c *journal.Call, d *Demand, k *Key, alias string) error {
	if c.Op == nil || !c.Op.Uses {
		c.Rely(k.Key)
	}
	r := &k.asked
	s.ask(r, c, d)
	k.context = keyContext{s: s, c: c, d: d, key: k.Key, alias: alias}
	r.Resource, r.Context = k.ARN, &k.context
	document, err := s.policies.parse(k.Policy)
	if err != nil {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The key policy of %s cannot be read.", k.ARN)
	}
	// A stranger's refusal does not take the longer the more the key's policy
	// denies, which would tell that the key exists.
	decision := policy.Decide(r, document, c.Caller.Policies, &k.context)
	c.Decided(decision)
	if decision.Allowed {
		return nil
	}
	if s.stranger(c, d, s.policyRequest(c, d)) {
		return s.strangerDenied(c, d, r)
	}
	decision = policy.Evaluate(r, document, c.Caller.Policies, nil) // others are told of a Deny
	c.Decided(decision)
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", decision.AccessDenied(r))
}

// AuthoriseRow is authorise for a key besides the one that the call is admitted to, whose
// own policy has its say.
func (s *Access) AuthoriseRow(c *journal.Call, d *Demand, row *store.Key, alias string) error {
	return s.authorise(c, d, &Key{Key: row, ARN: s.KeyARN(row.Region, row.ID), View: c.View, access: s}, alias)
}

// policyRequest is what policies need to know of every call.
func (s *Access) policyRequest(c *journal.Call, d *Demand) *policy.Request {
	r := new(policy.Request)
	s.ask(r, c, d)
	return r
}

// ask is policyRequest into memory that is there.
func (s *Access) ask(r *policy.Request, c *journal.Call, d *Demand) {
	*r = policy.Request{
		Principal: c.Caller.Principal, Action: d.actionName(c), ResourceAccount: s.Account, Now: s.Now(),
		EncryptionContext: d.Context, NewGrant: policyGrant(d.Grant),
	}
}

// AuthoriseAccount decides about an operation on no key in particular, such as
// CreateKey: identity policies alone allow it.
func (s *Access) AuthoriseAccount(c *journal.Call, d *Demand) error {
	return s.AuthoriseResource(c, d, "*")
}

// AuthoriseResource decides about something that has no key policy: all keys
// ("*"), or an alias.
func (s *Access) AuthoriseResource(c *journal.Call, d *Demand, resource string) error {
	r := s.policyRequest(c, d)
	r.Resource = resource
	r.Context = &keyContext{s: s, c: c, d: d}
	decision := policy.Evaluate(r, nil, c.Caller.Policies, nil)
	c.Decided(decision)
	if !decision.Allowed {
		return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", decision.AccessDenied(r))
	}
	return nil
}

// AuthoriseTags decides whether the caller may give its tags to a key that is yet
// to be made: TagResource, which AWS asks of CreateKey and ReplicateKey with tags.
// The key has no policy of its own yet, so identity policies decide, as under
// the default key policy. It has no tags before it gets them.
func (s *Access) AuthoriseTags(c *journal.Call, row *store.Key) error {
	if len(row.Tags) == 0 {
		return nil
	}
	d := &Demand{Action: keys.ActionNamed("TagResource"), Region: row.Region, Conditions: TagConditions(row.Tags)}
	untagged := *row
	untagged.Tags = nil
	r := s.policyRequest(c, d)
	r.Resource = s.KeyARN(row.Region, row.ID)
	r.Context = &keyContext{s: s, c: c, d: d, key: &untagged}
	decision := policy.Evaluate(r, s.policies.standard, c.Caller.Policies, nil)
	if decision.Allowed {
		return nil
	}
	c.Decided(decision)
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", decision.AccessDenied(r))
}

// AuthoriseRetire decides who may retire a grant. keyID is what the client wrote
// of the key, "" if it showed a token.
func (s *Access) AuthoriseRetire(c *journal.Call, g *store.Grant, keyID string) error {
	row, ok := c.View.Key(g.Region, g.KeyID)
	if !ok {
		return ErrGrantNotFound(g.ID)
	}
	c.ARN = s.KeyARN(row.Region, row.ID)
	document, err := s.policies.parse(row.Policy)
	if err != nil {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The key policy of %s cannot be read.", c.ARN)
	}
	d := &Demand{KeyID: keyID, Context: ConstraintContext(g), Conditions: ConstraintConditions(g)}
	r := s.policyRequest(c, d)
	r.Resource = c.ARN
	r.Context = &keyContext{s: s, c: c, d: d, key: row}
	decision := policy.DecideRetire(r, policyGrant(g), document, c.Caller.Policies)
	c.Decided(decision)
	if decision.Allowed {
		return nil
	}
	if keyID != "" && s.stranger(c, d, s.policyRequest(c, d)) {
		return s.strangerDenied(c, d, r)
	}
	decision = policy.EvaluateRetire(r, policyGrant(g), document, c.Caller.Policies)
	c.Decided(decision)
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", decision.AccessDenied(r))
}

// stranger reports whether the caller may not do this to any key that leaves
// the decision to the account: such a caller must not learn what exists.
func (s *Access) stranger(c *journal.Call, d *Demand, r *policy.Request) bool {
	r.Resource = s.writtenARN(c, d.KeyID)
	r.Context = &keyContext{s: s, c: c, d: d}
	return !policy.Evaluate(r, s.policies.standard, c.Caller.Policies, nil).Allowed
}

// strangerDenied is the one answer to a stranger, whether the key exists or
// not: it repeats only what the stranger wrote.
func (s *Access) strangerDenied(c *journal.Call, d *Demand, r *policy.Request) error {
	if d.KeyID == "" { // the ciphertext names the key
		return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", policy.HiddenKey(r))
	}
	r.Resource = s.writtenARN(c, d.KeyID)
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", policy.Decision{Source: policy.KeyPolicySource}.AccessDenied(r))
}

// Conceal returns err, which tells that something does not exist, unless the
// caller is a stranger.
func (s *Access) Conceal(c *journal.Call, d *Demand, err error) error {
	r := s.policyRequest(c, d)
	r.Resource = s.writtenARN(c, d.KeyID)
	r.Context = &keyContext{s: s, c: c, d: d}
	// The evaluation that a key which exists would have had: the refusals take
	// the same time.
	if decision := policy.Evaluate(r, s.policies.standard, c.Caller.Policies, nil); !decision.Allowed {
		c.Decided(decision)
	}
	if s.stranger(c, d, r) {
		return s.strangerDenied(c, d, r)
	}
	return err
}

// writtenARN is what the client wrote, as an ARN.
func (s *Access) writtenARN(c *journal.Call, id string) string {
	switch {
	case strings.HasPrefix(id, "arn:"):
		return id
	case strings.HasPrefix(id, keys.AliasPrefix):
		return s.AliasARN(c.Region, id)
	default:
		return s.KeyARN(c.Region, id)
	}
}

// Grants implements [policy.Granter]. Of the
// grants to one principal, which may be thousands, those that cannot allow the
// action are left out before they are compiled.
func (k *keyContext) Grants() iter.Seq[*policy.Grant] {
	return func(yield func(*policy.Grant) bool) {
		c, action := k.c, k.d.actionOf(k.c)
		p := &c.Caller.Principal
		account := "" // a grant to it is for those whom an identity policy allows the action
		if len(c.Caller.Policies) > 0 {
			account = k.s.rootARN()
		}
		for _, arn := range append([]string{p.ARN, p.SessionARN, account}, p.Groups...) {
			if arn == "" {
				continue
			}
			for g := range c.View.GrantsByGrantee(k.key.Region, k.key.ID, arn) {
				if slices.Contains(g.Operations, action.Name) && fits(g, action, k.d.Context) && !yield(policyGrant(g)) {
					return
				}
			}
		}
	}
}

// fits reports whether the call satisfies the grant's constraints. That of the
// encryption context binds the operations that take one.
func fits(g *store.Grant, action *keys.Action, context map[string]string) bool {
	if g.SourceArn != "" {
		return false // see [policy.Grant]
	}
	if action.Context == "" {
		return true
	}
	if g.ContextEquals != nil {
		return maps.Equal(g.ContextEquals, context)
	}
	for key, value := range g.ContextSubset {
		if got, ok := context[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// allGrants are all the grants of the key that name the caller, for people to
// read.
func (s *Access) allGrants(c *journal.Call, k *Key) []*policy.Grant {
	var list []*policy.Grant
	p := &c.Caller.Principal
	for _, arn := range append([]string{p.ARN, p.SessionARN, s.rootARN()}, p.Groups...) {
		for g := range c.View.GrantsByGrantee(k.Region, k.ID, arn) {
			list = append(list, policyGrant(g))
		}
	}
	return list
}

func (s *Access) rootARN() string { return keys.RootARN(s.Account) }

// policyGrant is the grant as package policy sees it.
func policyGrant(g *store.Grant) *policy.Grant {
	if g == nil {
		return nil
	}
	operations, err := policy.ParseGrantOperations(g.Operations)
	if err != nil {
		operations = 0 // an operation of a newer version: the grant allows nothing here
	}
	return &policy.Grant{
		ID: g.ID, Grantee: g.Grantee, RetiringPrincipal: g.Retiring, Operations: operations,
		ContextEquals: policy.NewConstraint(g.ContextEquals), ContextSubset: policy.NewConstraint(g.ContextSubset),
		SourceARN: g.SourceArn,
	}
}
