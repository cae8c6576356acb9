package policy

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"cmkd/daemon/keys"
)

// GrantOperations is a set of the operations that a grant can allow.
// https://docs.aws.amazon.com/kms/latest/developerguide/grants.html#terms-grant-operations
type GrantOperations uint32

// grantOperations are those operations. Their actions have the same names. To those
// that take an encryption context the constraints of a grant apply.
var grantOperations = func() (list []*keys.Action) {
	for i := range keys.Actions {
		if keys.Actions[i].Grant != keys.Never {
			list = append(list, &keys.Actions[i])
		}
	}
	return list
}()

// actionGrant maps the bit number of an action to its grant operation, 0 if no
// grant can allow the action.
var actionGrant = indexGrantOperations()

func indexGrantOperations() (byAction [64]GrantOperations) {
	for i, op := range grantOperations {
		byAction[bits.TrailingZeros64(uint64(actionBit["kms:"+op.Name]))] = 1 << i
	}
	return byAction
}

// contextOperations are the operations that take an encryption context.
var contextOperations = func() (set GrantOperations) {
	for i, op := range grantOperations {
		if op.Context != "" {
			set |= 1 << i
		}
	}
	return set
}()

var (
	createGrantOperation = grantOperationNamed("CreateGrant")
	retireGrantOperation = grantOperationNamed("RetireGrant")
)

// ParseGrantOperations makes the set of the operations named.
func ParseGrantOperations(names []string) (GrantOperations, error) {
	var set GrantOperations
	for _, name := range names {
		bit := grantOperationNamed(name)
		if bit == 0 {
			return 0, fmt.Errorf("%q is not a grant operation", name)
		}
		set |= bit
	}
	return set, nil
}

func grantOperationNamed(name string) GrantOperations {
	for i := range grantOperations {
		if grantOperations[i].Name == name {
			return 1 << i
		}
	}
	return 0
}

// Has reports whether the set has the operation named.
func (o GrantOperations) Has(name string) bool { return o&grantOperationNamed(name) != 0 }

// String lists the operations.
func (o GrantOperations) String() string {
	var names []string
	for i := range grantOperations {
		if o&(1<<i) != 0 {
			names = append(names, grantOperations[i].Name)
		}
	}
	return strings.Join(names, ", ")
}

// Grant is what evaluation needs to know of a grant. A grant takes part from
// the moment it is passed to [Evaluate]: grant tokens, which bridge the time
// until a grant is known everywhere, make no difference to a decision and give
// nothing to anyone but the grantee.
type Grant struct {
	ID string
	// Grantee is the ARN of a user, role, role session, group or account, or
	// the name of a service. An account's users need an identity policy too.
	Grantee string
	// RetiringPrincipal may retire the grant; "" if there is none.
	RetiringPrincipal string
	Operations        GrantOperations
	// ContextEquals and ContextSubset are the constraints; nil: none. Equals
	// allows exactly this encryption context, and Subset any that has at least
	// these pairs.
	//
	// Keys and values are compared exactly. AWS's developer guide says so too;
	// its API reference says that keys in constraints are not case-sensitive.
	// Exactly is what cannot be got around.
	ContextEquals, ContextSubset Constraint
	// SourceARN is the constraint that the request be made on behalf of this
	// resource, by an AWS service; "": none. It is aws:SourceArn, which no
	// request has here, so a grant with it allows nothing.
	// https://docs.aws.amazon.com/kms/latest/APIReference/API_GrantConstraints.html
	SourceARN string
}

// Constraint is an encryption context in the form that is quick to compare. A
// Constraint that is empty is not the same as one that is nil: nil is none.
type Constraint []contextPair

type contextPair struct{ key, value string }

// NewConstraint makes the constraint of an encryption context, nil of nil.
func NewConstraint(context map[string]string) Constraint {
	if context == nil {
		return nil
	}
	c := make(Constraint, 0, len(context))
	for key, value := range context {
		c = append(c, contextPair{key, value})
	}
	return c
}

// in reports whether the encryption context has every pair of the constraint.
func (c Constraint) in(context map[string]string) bool {
	for i := range c {
		if value, ok := context[c[i].key]; !ok || value != c[i].value {
			return false
		}
	}
	return true
}

// has reports whether c has every pair of the other constraint.
func (c Constraint) has(other Constraint) bool {
	for _, pair := range other {
		if !slices.Contains(c, pair) {
			return false
		}
	}
	return true
}

// grantThatAllows returns the first grant that allows the request.
// identityAllows: an identity policy does, which is what the users of an account
// need when the account is the grantee.
func (e *evaluation) grantThatAllows(grants Granter, identityAllows bool) *Grant {
	if e.action == 0 || grants == nil {
		return nil
	}
	operation := actionGrant[bits.TrailingZeros64(uint64(e.action))]
	for g := range grants.Grants() {
		if !e.budget.spend(1) {
			return nil
		}
		reason := e.grantRefuses(g, operation, identityAllows)
		e.traceGrant(g, reason)
		if reason == "" {
			return g
		}
	}
	return nil
}

// The reasons that another request may not have.
const (
	reasonConstraint = "the encryption context does not satisfy the grant's constraint"
	reasonSource     = "the request is not on behalf of the resource in the grant's SourceArn"
	reasonNewGrant   = "the new grant would allow more than this one"
)

// grantRefuses says why a grant does not allow the request, "" if it does.
func (e *evaluation) grantRefuses(g *Grant, operation GrantOperations, identityAllows bool) string {
	switch {
	case g.Operations&operation == 0:
		return "the grant does not have the operation"
	case !g.isFor(&e.r.Principal, g.Grantee, identityAllows):
		return "the grantee is someone else"
	case g.SourceARN != "":
		return reasonSource
	case operation&contextOperations != 0 && !g.permits(e.r.EncryptionContext):
		return reasonConstraint
	case operation == createGrantOperation && (e.r.NewGrant == nil || !e.r.NewGrant.Within(g)):
		return reasonNewGrant
	default:
		return ""
	}
}

// isFor reports whether id, the grantee or the retiring principal, is the
// principal, or its account and an identity policy delegates.
func (g *Grant) isFor(p *Principal, id string, identityAllows bool) bool {
	if p.is(id) {
		return true
	}
	return p.Type != Service && p.AccountID != "" && accountOf(id) == p.AccountID && (p.Type == Root || identityAllows)
}

// permits checks an encryption context against the constraints.
func (g *Grant) permits(context map[string]string) bool {
	if g.ContextEquals != nil && len(context) != len(g.ContextEquals) {
		return false
	}
	return g.ContextEquals.in(context) && g.ContextSubset.in(context)
}

// Within reports whether g allows no more than parent: no other operations, no
// encryption context that parent's constraints do not permit, and no other
// source. A grant that is made by right of another one must be so.
// https://docs.aws.amazon.com/kms/latest/developerguide/create-grant-overview.html#grant-creategrant
func (g *Grant) Within(parent *Grant) bool {
	if g.Operations&^parent.Operations != 0 || parent.SourceARN != "" && g.SourceARN != parent.SourceARN {
		return false
	}
	if equals := parent.ContextEquals; equals != nil &&
		(g.ContextEquals == nil || len(g.ContextEquals) != len(equals) || !g.ContextEquals.has(equals)) {
		return false
	}
	return g.ContextEquals.has(parent.ContextSubset) || g.ContextSubset.has(parent.ContextSubset)
}

// EvaluateRetire decides whether the principal of r may retire the grant; the
// action is taken to be kms:RetireGrant. The grant itself says who may: its
// retiring principal, and its grantee if the grant has the operation RetireGrant.
// The account that owns the key may too, and may delegate that by an identity
// policy. A Deny refuses all of them; an Allow in a key policy has no effect.
// https://docs.aws.amazon.com/kms/latest/developerguide/grant-delete.html
//
// There is no such function for RevokeGrant, which key policies and identity
// policies allow like any other operation: see [Evaluate].
func EvaluateRetire(r *Request, g *Grant, key *Document, identity []*Document) Decision {
	e := newEvaluation(r.toRetire())
	defer e.close()
	return e.unlessSpent(e.decideRetire(g, key, identity))
}

// DecideRetire is to [EvaluateRetire] what [Decide] is to [Evaluate].
func DecideRetire(r *Request, g *Grant, key *Document, identity []*Document) Decision {
	e := newEvaluation(r.toRetire())
	defer e.close()
	return e.allowFirst(key, func() Decision { return e.decideRetire(g, key, identity) })
}

func (r *Request) toRetire() *Request {
	retire := *r
	retire.Action = "kms:RetireGrant"
	return &retire
}

func (e *evaluation) decideRetire(g *Grant, key *Document, identity []*Document) Decision {
	if key != nil {
		if v := e.keyVerdict(key); v.denied {
			return v.decision(KeyPolicySource, false)
		}
	}
	identitySays := e.identityVerdict(identity)
	if identitySays.denied {
		return identitySays.decision(IdentityPolicySource, false)
	}
	p := &e.r.Principal
	switch {
	case g.isFor(p, g.RetiringPrincipal, identitySays.allowed),
		g.Operations&retireGrantOperation != 0 && g.isFor(p, g.Grantee, identitySays.allowed):
		return Decision{Allowed: true, Source: GrantSource, Statement: -1, GrantID: g.ID}
	case p.Type == Service || !p.isOf(e.r.ResourceAccount):
		return Decision{Source: KeyPolicySource, Statement: -1}
	case p.Type == Root:
		return Decision{Allowed: true, Source: AccountSource, Statement: -1}
	case identitySays.allowed:
		return identitySays.decision(IdentityPolicySource, true)
	default:
		return Decision{Source: IdentityPolicySource, Statement: -1}
	}
}
