package policy

import "fmt"

// Trace is a decision and how it came about.
type Trace struct {
	Decision Decision
	Steps    []Step
}

// Step is one statement or grant that was considered.
type Step struct {
	Source Source
	// Policy is the name of the policy, Statement the place of the statement
	// in it, from 0, -1 for a grant.
	Policy    string
	Statement int
	Sid       string
	Effect    Effect
	GrantID   string
	Matched   bool
	// Depends: only a condition, or the constraint of a grant, was not met, so
	// another request of the same principal for the same action may match.
	Depends bool
	// Why says what matched or what did not. It names condition keys but never
	// their values in the request.
	Why string
}

// Explain decides like [Evaluate] and tells what it considered, in order. Like
// it, it stops at the first Deny that applies.
func Explain(r *Request, key *Document, identity []*Document, grants []*Grant) Trace {
	e := newEvaluation(r)
	defer e.close()
	t := Trace{}
	e.trace = &t
	t.Decision = e.decide(key, identity, listOf(grants))
	return t
}

func (e *evaluation) traceStatement(d *Document, i int, failed element, index int, stands standing) {
	if e.trace == nil {
		return
	}
	s := &d.statements[i]
	step := Step{
		Policy: d.name, Statement: i, Sid: s.sid, Effect: s.effect,
		Matched: failed == matched, Depends: failed == conditionElement,
		Why: s.why(e, failed, index, stands),
	}
	if d.kind == IdentityPolicy {
		step.Source = IdentityPolicySource
	}
	e.trace.Steps = append(e.trace.Steps, step)
}

func (e *evaluation) traceGrant(g *Grant, reason string) {
	if e.trace == nil {
		return
	}
	step := Step{
		Source: GrantSource, Statement: -1, GrantID: g.ID, Matched: reason == "", Why: reason,
		Depends: reason == reasonConstraint || reason == reasonNewGrant,
	}
	if step.Matched {
		step.Why = "the grant allows the operation"
	}
	e.trace.Steps = append(e.trace.Steps, step)
}

// why puts the result of a match into words.
func (s *statement) why(e *evaluation, failed element, index int, stands standing) string {
	switch failed {
	case principalElement:
		if s.principals.not {
			return "NotPrincipal excepts the caller"
		}
		return "Principal does not name the caller"
	case actionElement:
		if s.actions.not {
			return "NotAction excepts the action"
		}
		return "Action does not match"
	case resourceElement:
		switch {
		case s.resources.absent:
			return "the statement has no Resource, so it applies to no key"
		case s.resources.not:
			return "NotResource excepts the resource"
		}
		return "Resource does not match"
	case conditionElement:
		return s.conditions[index].whyNot(e)
	default: // matched
	}
	switch {
	case stands == accountIsNamed:
		return "the caller's account is named: identity policies may allow"
	case s.effect == Deny:
		return "the statement denies"
	default:
		return "the statement allows"
	}
}

func (c *condition) whyNot(e *evaluation) string {
	values := e.lookup(&c.key)
	defer e.release(values)
	if len(values) == 0 {
		return fmt.Sprintf("the condition %s on %s is not met: the request has no such key", c.operator, c.key.name)
	}
	return fmt.Sprintf("the condition %s on %s is not met", c.operator, c.key.name)
}
