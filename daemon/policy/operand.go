package policy

import (
	"net/netip"
	"strings"
	"time"
)

// The operands below hold a value of the policy in the form that its operator
// compares. A value of the request that is not of the operator's type (a word
// where a number belongs) matches nothing.

// stringOperand is of StringEquals and StringEqualsIgnoreCase.
type stringOperand struct {
	pattern
	fold bool
}

func (o *stringOperand) matches(e *evaluation, value string) (bool, bool) {
	return o.equals(e, value, o.fold)
}

// likeOperand is of StringLike.
type likeOperand struct{ pattern }

func (o *likeOperand) matches(e *evaluation, value string) (bool, bool) { return o.match(e, value) }

// arnOperand is of ArnEquals and ArnLike, which are the same: the six parts of
// an ARN are matched one by one, so that no wildcard and no variable reaches
// across a colon. The lone pattern * matches every ARN.
type arnOperand struct {
	star  bool
	parts [arnParts]pattern
}

// arnParts is the number of parts of arn:partition:service:region:account:resource.
const arnParts = 6

// splitARN cuts an ARN into its parts; the last one may contain colons.
func splitARN(arn string) (parts [arnParts]string, ok bool) {
	rest := arn
	for i := range arnParts - 1 {
		part, after, found := strings.Cut(rest, ":")
		if !found {
			return parts, false
		}
		parts[i], rest = part, after
	}
	parts[arnParts-1] = rest
	return parts, true
}

func (o *arnOperand) matches(e *evaluation, value string) (bool, bool) {
	if !e.budget.spend(1 + len(value)/bytesPerStep) {
		return false, false
	}
	parts, ok := splitARN(value)
	if !ok || parts[0] != "arn" {
		return false, o.resolvable(e)
	}
	if o.star {
		return true, true
	}
	matched := true
	for i := range o.parts {
		m, resolved := o.parts[i].match(e, parts[i])
		if !resolved {
			return false, false
		}
		matched = matched && m
	}
	return matched, true
}

func (o *arnOperand) resolvable(e *evaluation) bool {
	for i := range o.parts {
		if !o.parts[i].resolvable(e) {
			return false
		}
	}
	return true
}

// constant is an operand without variables.
type constant struct{}

func (constant) resolvable(*evaluation) bool { return true }

// relation is how a value of the request must compare with the operand.
type relation uint8

const (
	equal relation = iota
	less
	lessOrEqual
	greater
	greaterOrEqual
)

// holds interprets the result of a three-way comparison.
func (r relation) holds(cmp int) bool {
	switch r {
	case less:
		return cmp < 0
	case lessOrEqual:
		return cmp <= 0
	case greater:
		return cmp > 0
	case greaterOrEqual:
		return cmp >= 0
	default:
		return cmp == 0
	}
}

// numberOperand is of the Numeric operators.
type numberOperand struct {
	constant
	relation relation
	number   decimal
}

func (o *numberOperand) matches(e *evaluation, value string) (bool, bool) {
	if !e.budget.spend(1 + len(value)) {
		return false, false
	}
	n, ok := parseDecimal(value)
	return ok && o.relation.holds(n.compare(o.number)), true
}

// dateOperand is of the Date operators.
type dateOperand struct {
	constant
	relation relation
	time     time.Time
}

func (o *dateOperand) matches(e *evaluation, value string) (bool, bool) {
	if !e.budget.spend(maxDate) {
		return false, false
	}
	t, ok := parseDate(value)
	return ok && o.relation.holds(t.Compare(o.time)), true
}

// boolOperand is of Bool.
type boolOperand struct {
	constant
	value bool
}

func (o *boolOperand) matches(e *evaluation, value string) (bool, bool) {
	e.budget.spend(1)
	b, ok := parseBool(value)
	return ok && b == o.value, true
}

// binaryOperand is of BinaryEquals: the bytes that the policy has in base64.
type binaryOperand struct {
	constant
	bytes string
}

func (o *binaryOperand) matches(e *evaluation, value string) (bool, bool) {
	e.budget.spend(1)
	return o.bytes == value, true
}

// networkOperand is of IpAddress.
type networkOperand struct {
	constant
	prefix netip.Prefix
}

func (o *networkOperand) matches(e *evaluation, value string) (bool, bool) {
	if !e.budget.spend(1 + len(value)) {
		return false, false
	}
	addr, err := netip.ParseAddr(value)
	return err == nil && o.prefix.Contains(addr.Unmap().WithZone("")), true
}
