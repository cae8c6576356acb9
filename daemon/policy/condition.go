package policy

// condition is one operator applied to one condition key.
type condition struct {
	operator  string // as written, with its qualifier and suffix
	quantity  quantity
	negated   bool
	ifExists  bool
	null      bool // the Null operator: nullWants applies, operands do not
	nullWants [2]bool
	key       conditionKey
	operands  []operand
	hasVars   bool
}

// quantity is the set operator before a condition operator.
type quantity uint8

const (
	single quantity = iota
	forAllValues
	forAnyValue
)

// operand is one value of a condition, compiled for its operator.
type operand interface {
	// matches compares a value of the request with the operand, without the
	// operator's negation. An operand with a policy variable that has no value
	// is not resolved, and matches nothing.
	matches(e *evaluation, value string) (matched, resolved bool)
	resolvable(e *evaluation) bool
}

// holds reports whether the condition is met for a statement of this effect.
//
// Values of one condition are alternatives (of a negated operator: none may
// match). A key that the request does not have meets no condition, except for
// negated operators, IfExists, ForAllValues and Null.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_multi-value-conditions.html
//
// Two cases that AWS leaves open depend on the effect, so that they refuse. A
// variable without a value "might cause the entire statement to be invalid": an
// Allow with a negated operator does not apply, a Deny does. And where a key
// has several values but the operator no set operator (two encryption context
// keys that differ only in case, say), an Allow needs all of them to fit, a
// Deny one.
func (c *condition) holds(e *evaluation, effect Effect) bool {
	values := e.lookup(&c.key)
	defer e.release(values)
	if c.null {
		if len(values) == 0 || e.r.presets(&c.key) {
			return c.nullWants[1]
		}
		return c.nullWants[0]
	}
	if len(values) == 0 {
		return c.holdsWithoutValue(e, effect)
	}
	if c.quantity != single && allEmpty(values) {
		return c.quantity == forAllValues // to the set operators an empty string is not a value
	}
	needAll := c.quantity == forAllValues || c.quantity == single && effect == Allow
	for _, value := range values {
		if e.budget.spent {
			return false // as good as anything: see unlessSpent
		}
		if c.fits(e, effect, value) != needAll {
			return !needAll
		}
	}
	return needAll
}

// holdsWithoutValue decides for a key that the request does not have.
func (c *condition) holdsWithoutValue(e *evaluation, effect Effect) bool {
	switch {
	case c.quantity == forAllValues:
		return true
	case c.ifExists:
		return true
	case c.quantity == forAnyValue:
		return false
	case c.negated && effect == Allow && c.hasVars:
		for _, o := range c.operands {
			if !o.resolvable(e) {
				return false
			}
		}
		return true
	default:
		return c.negated
	}
}

// fits applies the operator to one value of the request.
func (c *condition) fits(e *evaluation, effect Effect, value string) bool {
	unresolved := false
	for _, o := range c.operands {
		matched, resolved := o.matches(e, value)
		if matched {
			return !c.negated
		}
		unresolved = unresolved || !resolved
	}
	return c.negated && (!unresolved || effect == Deny)
}

func allEmpty(values []string) bool {
	for _, v := range values {
		if v != "" {
			return false
		}
	}
	return true
}
