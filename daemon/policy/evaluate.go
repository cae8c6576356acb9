package policy

import (
	"iter"
	"slices"
	"strings"
	"sync"
)

// Evaluate decides a request. key is the policy of the key, nil for operations
// that are on no key (resource "*", or an alias): those need an identity policy.
// identity are the policies of the principal and of its groups, grants those of
// the key's grants that may concern the principal, in any order; others among
// them do no harm.
//
// The account root needs no policy where there is no key; a key must name its
// account like anyone else.
// https://docs.aws.amazon.com/kms/latest/developerguide/policy-evaluation.html
func Evaluate(r *Request, key *Document, identity []*Document, grants []*Grant) Decision {
	e := newEvaluation(r)
	defer e.close()
	return e.decide(key, identity, listOf(grants))
}

// A Granter knows the grants of a key that may concern a request.
type Granter interface {
	Grants() iter.Seq[*Grant]
}

// grantList is a Granter that has them all.
type grantList []*Grant

// Grants implements [Granter].
func (l grantList) Grants() iter.Seq[*Grant] { return slices.Values(l) }

func listOf(grants []*Grant) Granter {
	if len(grants) == 0 {
		return nil
	}
	return grantList(grants)
}

// Decide allows what [Evaluate] allows. It looks for a Deny in the key policy only
// once something allows the request, so the refusal of somebody whom nothing allows
// anything takes no longer the more a key's policy denies. Such a refusal is not
// Explicit for the key policy's sake, whether or not a Deny of it applies. grants, which may be nil,
// is asked for them only when no policy allows or denies the request.
func Decide(r *Request, key *Document, identity []*Document, grants Granter) Decision {
	e := newEvaluation(r)
	defer e.close()
	return e.allowFirst(key, func() Decision { return e.decideInOrder(key, identity, grants) })
}

// evaluation is the state of one evaluation, pooled with its scratch space.
type evaluation struct {
	r           *Request
	action      actionBits   // 0: not a known action
	lowerAction string       // of an action that is not known
	values      []string     // a stack of condition key values
	trace       *Trace       // of Explain
	looksAt     statementSet // of the key policy
	budget      budget
}

var evaluations = sync.Pool{New: func() any { return new(evaluation) }}

func newEvaluation(r *Request) *evaluation {
	e := evaluations.Get().(*evaluation)
	e.r, e.budget = r, newBudget()
	e.action = actionBit[r.Action]
	if e.action == 0 {
		e.lowerAction = strings.ToLower(r.Action)
		e.action = knownAction(e.lowerAction)
	}
	return e
}

// knownAction finds an action that is not spelled as AWS does.
func knownAction(lower string) actionBits {
	for i, name := range lowerActions {
		if name == lower {
			return 1 << i
		}
	}
	return 0
}

// close returns the evaluation to the pool, without the values that it saw:
// encryption contexts do not outlive their request.
func (e *evaluation) close() {
	const enough = 256 // to keep, and to clear each time
	if cap(e.values) > enough {
		e.values = nil
	}
	clear(e.values[:cap(e.values)])
	*e = evaluation{values: e.values[:0]}
	evaluations.Put(e)
}

// lookup returns the values of a condition key; release gives them back, the
// last one taken first.
func (e *evaluation) lookup(k *conditionKey) []string {
	start := len(e.values)
	e.values = e.r.appendValues(e.values, k)
	e.budget.spend(e.r.lookupSteps(k) + len(e.values) - start)
	return e.values[start:]
}

func (e *evaluation) release(values []string) {
	e.values = e.values[:len(e.values)-len(values)]
}

// resolve returns the parts of a pattern with its variables replaced by the
// request's values. A key with several values has no value as a variable.
func (e *evaluation) resolve(p *pattern) (parts []part, ok bool) {
	if !e.budget.spend(len(p.parts)) {
		return nil, false
	}
	parts = make([]part, len(p.parts))
	for i, from := range p.parts {
		if from.kind == partVar {
			values := e.lookup(from.key)
			if len(values) == 1 {
				from.text = values[0]
			}
			known := len(values) == 1 || len(values) == 0 && from.hasDefault
			e.release(values)
			if !known {
				return nil, false
			}
			from = part{kind: partText, text: from.text}
		}
		parts[i] = from
	}
	return parts, true
}

// element says which element of a statement a request did not match.
type element uint8

const (
	matched element = iota
	principalElement
	actionElement
	resourceElement
	conditionElement
)

// matchAction, first of all because it is the cheapest, and match, for the other
// elements but the principal, check a statement against the request. If it is a
// condition that is not met, index says which.
func (s *statement) matchAction(e *evaluation) bool {
	return s.actions.matches(e.action, e.lowerAction)
}

func (s *statement) match(e *evaluation) (failed element, index int) {
	if !s.resources.matches(e, s.effect) {
		return resourceElement, 0
	}
	for i := range s.conditions {
		if e.budget.spent || !s.conditions[i].holds(e, s.effect) {
			return conditionElement, i
		}
	}
	return matched, 0
}

// standing says what the statement's principals make of the caller. What a Deny
// names it denies, an account with all that belongs to it.
func (s *statement) standing(p *Principal) standing {
	if s.effect == Allow {
		return s.principals.allows(p)
	}
	if s.principals.denies(p) {
		return isNamed
	}
	return unnamed
}

// verdict is what one kind of policy says about a request. The places are the
// policy and the statement that say so.
type verdict struct {
	denied    bool
	allowed   bool
	delegated bool // to identity policies, through the account
	policy    *Document
	statement int
}

// statementSet is which statements of a key policy an evaluation looks at.
type statementSet uint8

const (
	allStatements statementSet = iota
	allowStatements
	denyStatements
)

func (e *evaluation) leavesOut(s *statement) bool {
	return e.looksAt == allowStatements && s.effect != Allow || e.looksAt == denyStatements && s.effect != Deny
}

// keyVerdict evaluates a key policy.
func (e *evaluation) keyVerdict(d *Document) verdict {
	v := verdict{statement: -1}
	principal := &e.r.Principal
	for i := range d.statements {
		s := &d.statements[i]
		if e.leavesOut(s) {
			continue
		}
		if !e.budget.spend(1) {
			break
		}
		failed, index, stands := actionElement, 0, unnamed
		if s.matchAction(e) {
			failed = principalElement
			if stands = s.standing(principal); stands != unnamed {
				failed, index = s.match(e)
			}
		}
		e.traceStatement(d, i, failed, index, stands)
		if failed != matched {
			continue
		}
		switch {
		case s.effect == Deny:
			return verdict{denied: true, policy: d, statement: i}
		case stands == accountIsNamed:
			v.delegated = true
		case !v.allowed:
			v.allowed, v.policy, v.statement = true, d, i
		}
	}
	return v
}

// identityVerdict evaluates the identity policies together.
func (e *evaluation) identityVerdict(documents []*Document) verdict {
	v := verdict{statement: -1}
	for _, d := range documents {
		for i := range d.statements {
			if !e.budget.spend(1) {
				return v
			}
			s := &d.statements[i]
			failed, index := actionElement, 0
			if s.matchAction(e) {
				failed, index = s.match(e)
			}
			e.traceStatement(d, i, failed, index, isNamed)
			if failed != matched {
				continue
			}
			if s.effect == Deny {
				return verdict{denied: true, policy: d, statement: i}
			}
			if !v.allowed {
				v.allowed, v.policy, v.statement = true, d, i
			}
		}
	}
	return v
}

// decide decides, or refuses where that would take too long.
func (e *evaluation) decide(key *Document, identity []*Document, grants Granter) Decision {
	d := e.decideInOrder(key, identity, grants)
	return e.unlessSpent(d)
}

// allowFirst is the decision in which decide is asked without the Deny statements
// of the key policy, and they are looked at if it allows. Each statement is looked
// at once, as in one pass, so what is allowed takes the same budget.
func (e *evaluation) allowFirst(key *Document, decide func() Decision) Decision {
	e.looksAt = allowStatements
	d := decide()
	if d.Allowed && key != nil {
		e.looksAt = denyStatements
		if v := e.keyVerdict(key); v.denied {
			d = v.decision(KeyPolicySource, false)
		}
	}
	return e.unlessSpent(d)
}

// unlessSpent is the decision, if the budget was enough for it: what has been
// answered without budget means nothing, not even to a Deny.
func (e *evaluation) unlessSpent(d Decision) Decision {
	if e.budget.spent {
		return Decision{Source: d.Source, Statement: -1, TooCostly: true}
	}
	return d
}

// decideInOrder is the order of the decision; see the package comment.
func (e *evaluation) decideInOrder(key *Document, identity []*Document, grants Granter) Decision {
	keySays := verdict{statement: -1}
	if key != nil {
		if keySays = e.keyVerdict(key); keySays.denied {
			return keySays.decision(KeyPolicySource, false)
		}
	}
	identitySays := e.identityVerdict(identity)
	if identitySays.denied {
		return identitySays.decision(IdentityPolicySource, false)
	}
	if key == nil {
		return e.decideWithoutKey(identitySays)
	}

	r := e.r
	ownAccount := r.Principal.Type == Service || r.Principal.isOf(r.ResourceAccount)
	switch {
	case keySays.allowed && ownAccount:
		return keySays.decision(KeyPolicySource, true)
	case (keySays.allowed || keySays.delegated) && identitySays.allowed:
		return identitySays.decision(IdentityPolicySource, true)
	}
	if g := e.grantThatAllows(grants, identitySays.allowed); g != nil {
		return Decision{Allowed: true, Source: GrantSource, Statement: -1, GrantID: g.ID}
	}
	if keySays.allowed || keySays.delegated {
		return Decision{Source: IdentityPolicySource, Statement: -1}
	}
	return Decision{Source: KeyPolicySource, Statement: -1}
}

// decideWithoutKey decides operations that are on no key. A key's ARN without
// its policy is refused: it is not for an identity policy alone to allow.
func (e *evaluation) decideWithoutKey(identitySays verdict) Decision {
	switch {
	case isKeyARN(e.r.Resource):
		return Decision{Source: KeyPolicySource, Statement: -1}
	case identitySays.allowed:
		return identitySays.decision(IdentityPolicySource, true)
	case e.r.Principal.Type == Root && e.r.Principal.isOf(e.r.ResourceAccount):
		return Decision{Allowed: true, Source: AccountSource, Statement: -1}
	default:
		return Decision{Source: IdentityPolicySource, Statement: -1}
	}
}

func isKeyARN(resource string) bool {
	parts, ok := splitARN(resource)
	return ok && strings.HasPrefix(parts[arnParts-1], "key/")
}
