package kms

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/policy"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// authorise decides whether the caller may do what d demands of the key, by
// the key policy, the caller's identity policies and the key's grants.
func (s *Service) authorise(c *journal.Call, d *demand, k *key, id identifier) error {
	if c.Op == nil || !c.Op.Uses {
		c.Rely(k.Key)
	}
	r := &k.asked
	s.ask(r, c, d)
	k.context = keyContext{s: s, c: c, d: d, key: k.Key, alias: id.alias}
	r.Resource, r.Context = k.arn, &k.context
	document, err := s.policies.parse(k.Policy)
	if err != nil {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The key policy of %s cannot be read.", k.arn)
	}
	// A stranger's refusal does not take the longer the more the key's policy
	// denies, which would tell that the key exists.
	decision := policy.Decide(r, document, c.Caller.Policies, nil)
	if !decision.Allowed && !decision.Explicit {
		// Grants only add: they are looked at when nothing else allows.
		decision = policy.Decide(r, document, c.Caller.Policies, s.grantsFor(c, k, d))
	}
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

// policyRequest is what policies need to know of every call.
func (s *Service) policyRequest(c *journal.Call, d *demand) *policy.Request {
	r := new(policy.Request)
	s.ask(r, c, d)
	return r
}

// ask is policyRequest into memory that is there.
func (s *Service) ask(r *policy.Request, c *journal.Call, d *demand) {
	*r = policy.Request{
		Principal: c.Caller.Principal, Action: d.actionName(c), ResourceAccount: s.Account, Now: s.Now(),
		EncryptionContext: d.context, NewGrant: policyGrant(d.grant),
	}
}

// authoriseAccount decides about an operation on no key in particular, such as
// CreateKey: identity policies alone allow it.
func (s *Service) authoriseAccount(c *journal.Call, d *demand) error {
	return s.authoriseResource(c, d, "*")
}

// authoriseResource decides about something that has no key policy: all keys
// ("*"), or an alias.
func (s *Service) authoriseResource(c *journal.Call, d *demand, resource string) error {
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

// authoriseTags decides whether the caller may give its tags to a key that is yet
// to be made: TagResource, which AWS asks of CreateKey and ReplicateKey with tags.
// The key has no policy of its own yet, so identity policies decide, as under
// the default key policy. It has no tags before it gets them.
func (s *Service) authoriseTags(c *journal.Call, row *store.Key) error {
	if len(row.Tags) == 0 {
		return nil
	}
	d := &demand{action: keys.ActionNamed("TagResource"), region: row.Region, conditions: tagConditions(row.Tags)}
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

// authoriseRetire decides who may retire a grant. keyID is what the client wrote
// of the key, "" if it showed a token.
func (s *Service) authoriseRetire(c *journal.Call, g *store.Grant, keyID string) error {
	row, ok := c.View.Key(g.Region, g.KeyID)
	if !ok {
		return errGrantNotFound(g.ID)
	}
	c.ARN = s.KeyARN(row.Region, row.ID)
	document, err := s.policies.parse(row.Policy)
	if err != nil {
		return kmsapi.Errorf(kmsapi.CodeKMSInternalException, "The key policy of %s cannot be read.", c.ARN)
	}
	d := &demand{keyID: keyID, context: constraintContext(g), conditions: constraintConditions(g)}
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
func (s *Service) stranger(c *journal.Call, d *demand, r *policy.Request) bool {
	r.Resource = s.writtenARN(c, d.keyID)
	r.Context = &keyContext{s: s, c: c, d: d}
	return !policy.Evaluate(r, s.policies.standard, c.Caller.Policies, nil).Allowed
}

// strangerDenied is the one answer to a stranger, whether the key exists or
// not: it repeats only what the stranger wrote.
func (s *Service) strangerDenied(c *journal.Call, d *demand, r *policy.Request) error {
	if d.keyID == "" { // the ciphertext names the key
		return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", policy.HiddenKey(r))
	}
	r.Resource = s.writtenARN(c, d.keyID)
	return kmsapi.Errorf(kmsapi.CodeAccessDeniedException, "%s", policy.Decision{Source: policy.KeyPolicySource}.AccessDenied(r))
}

// conceal returns err, which tells that something does not exist, unless the
// caller is a stranger.
func (s *Service) conceal(c *journal.Call, d *demand, err error) error {
	r := s.policyRequest(c, d)
	r.Resource = s.writtenARN(c, d.keyID)
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
func (s *Service) writtenARN(c *journal.Call, id string) string {
	switch {
	case strings.HasPrefix(id, "arn:"):
		return id
	case strings.HasPrefix(id, keys.AliasPrefix):
		return s.AliasARN(c.Region, id)
	default:
		return s.KeyARN(c.Region, id)
	}
}

// actionName is the action as policies write it, such as "kms:Encrypt".
func (d *demand) actionName(c *journal.Call) string { return d.actionOf(c).Permission() }

// actionOf is the action that the call needs.
func (d *demand) actionOf(c *journal.Call) *keys.Action {
	if d.action != nil {
		return d.action
	}
	return c.Op
}

// grantsFor are the grants of the key that may concern the call. Of the
// grants to one principal, which may be thousands, those that cannot allow the
// action are left out before they are compiled.
func (s *Service) grantsFor(c *journal.Call, k *key, d *demand) []*policy.Grant {
	var list []*policy.Grant
	action := d.actionOf(c)
	p := &c.Caller.Principal
	account := "" // a grant to it is for those whom an identity policy allows the action
	if len(c.Caller.Policies) > 0 {
		account = s.rootARN()
	}
	for _, arn := range append([]string{p.ARN, p.SessionARN, account}, p.Groups...) {
		if arn == "" {
			continue
		}
		for g := range c.View.GrantsByGrantee(k.Region, k.ID, arn) {
			if !slices.Contains(g.Operations, action.Name) || !fits(g, action, d.context) {
				continue
			}
			list = append(list, policyGrant(g))
			if arn != account && action.Name != "CreateGrant" {
				return list // it allows; of the parents of a grant one may do where another does not
			}
		}
	}
	return list
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
func (s *Service) allGrants(c *journal.Call, k *key) []*policy.Grant {
	var list []*policy.Grant
	p := &c.Caller.Principal
	for _, arn := range append([]string{p.ARN, p.SessionARN, s.rootARN()}, p.Groups...) {
		for g := range c.View.GrantsByGrantee(k.Region, k.ID, arn) {
			list = append(list, policyGrant(g))
		}
	}
	return list
}

func (s *Service) rootARN() string { return keys.RootARN(s.Account) }

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

// keyContext answers condition keys from the call and its key. key is nil
// where there is none.
type keyContext struct {
	s     *Service
	c     *journal.Call
	d     *demand
	key   *store.Key
	alias string
}

// AppendValues implements [policy.Context]. What it does not know is not in the
// request: kms:ViaService, aws:SourceIp and others of callers through AWS or a
// network.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
func (k *keyContext) AppendValues(dst []string, name string) []string {
	for _, cond := range k.d.conditions {
		if policy.EqualFold(cond.name, name) {
			dst = append(dst, cond.values...)
			if !strings.HasPrefix(name, "aws:requesttag/") && !strings.HasPrefix(name, resourceTagPrefix) {
				return dst
			} // of two tags whose keys differ in case, both have their say
		}
	}
	switch name {
	case "aws:requestedregion":
		return append(dst, cmp.Or(k.d.region, k.c.Region))
	case "aws:useragent":
		return appendNonEmpty(dst, k.c.Record.UserAgent)
	case "aws:viaawsservice":
		return append(dst, "false")
	case "cmkd:peeruid":
		return append(dst, strconv.FormatUint(uint64(k.c.Caller.UID), 10))
	case "cmkd:peergid":
		return append(dst, strconv.FormatUint(uint64(k.c.Caller.GID), 10))
	case "cmkd:peerexecutable":
		return appendNonEmpty(dst, k.c.Caller.Executable())
	case "cmkd:plaintextdatakey":
		return append(dst, boolean(k.d.plaintextDataKey))
	case "kms:requestalias":
		return appendNonEmpty(dst, k.alias)
	}
	if rest, ok := strings.CutPrefix(name, attestationPrefix); ok {
		return appendAttestation(dst, k.c.Attested, rest)
	}
	if k.key == nil {
		return dst
	}
	return k.appendKey(dst, name)
}

// appendKey answers the condition keys that are about the key.
func (k *keyContext) appendKey(dst []string, name string) []string {
	row := k.key
	switch name {
	case "kms:keyspec":
		return append(dst, string(row.Spec))
	case "kms:keyusage":
		return append(dst, string(row.Usage))
	case "kms:keyorigin":
		return append(dst, string(row.Origin))
	case "kms:multiregion":
		return append(dst, boolean(row.PrimaryRegion != ""))
	case "kms:multiregionkeytype":
		return appendNonEmpty(dst, multiRegionType(row))
	case "kms:reencryptonsamekey":
		if k.d.otherKey == "" {
			return dst
		}
		return append(dst, boolean(k.s.sameKey(k.c, row, k.d.otherKey)))
	case "kms:resourcealiases":
		for a := range k.c.View.AliasesOf(row.Region, row.ID, "") {
			dst = append(dst, a.Name)
		}
		return dst
	case "kms:trailingdayswithoutkeyusage":
		return append(dst, strconv.Itoa(k.s.daysUnused(k.c.View, row)))
	}
	if tag, ok := strings.CutPrefix(name, resourceTagPrefix); ok {
		for _, t := range row.Tags {
			if policy.EqualFold(t.Key, tag) {
				dst = append(dst, t.Value)
			}
		}
	}
	return dst
}

// Preset implements [policy.Presetter].
func (k *keyContext) Preset(name string) bool {
	return slices.ContainsFunc(k.d.presets, func(preset string) bool { return policy.EqualFold(preset, name) })
}

const resourceTagPrefix = "aws:resourcetag/"

func appendNonEmpty(dst []string, value string) []string {
	if value == "" {
		return dst
	}
	return append(dst, value)
}

func nonEmpty(value string) []string { return appendNonEmpty(nil, value) }

func multiRegionType(row *store.Key) string {
	switch row.PrimaryRegion {
	case "":
		return ""
	case row.Region:
		return "PRIMARY"
	default:
		return "REPLICA"
	}
}

// daysUnused is the number of whole days since the key was used, or made.
func (s *Service) daysUnused(view *store.View, row *store.Key) int {
	last := row.Created
	if u, ok := s.usages.get(row.Region, row.ID); ok {
		last = u.Time
	} else if u, ok := view.Usage(row.Region, row.ID); ok {
		last = u.Time
	}
	return max(0, int(s.Now().Sub(last)/(24*time.Hour)))
}
