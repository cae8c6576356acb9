package policy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// operator is a condition operator without qualifier and suffix.
type operator struct {
	negated bool
	null    bool
	// compile makes the operand of a value of the policy.
	compile func(text string, variables bool) (operand, error)
}

// operators are the condition operators of the policy language.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
var operators = map[string]operator{
	"StringEquals":              {compile: newStringOperand(false)},
	"StringNotEquals":           {compile: newStringOperand(false), negated: true},
	"StringEqualsIgnoreCase":    {compile: newStringOperand(true)},
	"StringNotEqualsIgnoreCase": {compile: newStringOperand(true), negated: true},
	"StringLike":                {compile: newLikeOperand},
	"StringNotLike":             {compile: newLikeOperand, negated: true},
	"NumericEquals":             {compile: newNumberOperand(equal)},
	"NumericNotEquals":          {compile: newNumberOperand(equal), negated: true},
	"NumericLessThan":           {compile: newNumberOperand(less)},
	"NumericLessThanEquals":     {compile: newNumberOperand(lessOrEqual)},
	"NumericGreaterThan":        {compile: newNumberOperand(greater)},
	"NumericGreaterThanEquals":  {compile: newNumberOperand(greaterOrEqual)},
	"DateEquals":                {compile: newDateOperand(equal)},
	"DateNotEquals":             {compile: newDateOperand(equal), negated: true},
	"DateLessThan":              {compile: newDateOperand(less)},
	"DateLessThanEquals":        {compile: newDateOperand(lessOrEqual)},
	"DateGreaterThan":           {compile: newDateOperand(greater)},
	"DateGreaterThanEquals":     {compile: newDateOperand(greaterOrEqual)},
	"Bool":                      {compile: newBoolOperand},
	"BinaryEquals":              {compile: newBinaryOperand},
	"IpAddress":                 {compile: newNetworkOperand},
	"NotIpAddress":              {compile: newNetworkOperand, negated: true},
	"ArnEquals":                 {compile: newARNOperand},
	"ArnLike":                   {compile: newARNOperand},
	"ArnNotEquals":              {compile: newARNOperand, negated: true},
	"ArnNotLike":                {compile: newARNOperand, negated: true},
	"Null":                      {null: true},
}

func (c *compiler) condition(s *statement, n *node) error {
	block := n.member("Condition")
	if block == nil {
		return nil
	}
	if block.kind != jsontext.KindBeginObject {
		return c.fail(block, "the Condition must be a JSON object")
	}
	for i, name := range block.names {
		keys := block.values[i]
		form, op, err := parseOperator(name)
		if err != nil {
			return c.fail(keys, "%v", err)
		}
		if keys.kind != jsontext.KindBeginObject || len(keys.values) == 0 {
			return c.fail(keys, "a condition operator needs an object of condition keys and values")
		}
		seen := make(map[string]bool, len(keys.names))
		for j, key := range keys.names {
			one := form
			if err := c.oneCondition(&one, op, key, keys.values[j]); err != nil {
				return err
			}
			if seen[one.key.lower] {
				return c.fail(keys.values[j], "the condition key %q stands twice under one operator (condition keys are not case-sensitive)", key)
			}
			seen[one.key.lower] = true
			s.conditions = append(s.conditions, one)
		}
	}
	return nil
}

// parseOperator takes an operator apart: [ForAllValues:|ForAnyValue:]Name[IfExists].
func parseOperator(text string) (condition, operator, error) {
	c := condition{operator: text}
	name := text
	if qualifier, rest, found := strings.Cut(text, ":"); found {
		switch qualifier {
		case "ForAllValues":
			c.quantity = forAllValues
		case "ForAnyValue":
			c.quantity = forAnyValue
		default:
			return c, operator{}, fmt.Errorf("the set operator %q is unknown", qualifier)
		}
		name = rest
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	op, known := operators[name]
	if !known {
		return c, op, fmt.Errorf("the condition operator %q is unknown", text)
	}
	if op.null && (c.ifExists || c.quantity != single) {
		return c, op, errors.New("the operator Null takes neither a set operator nor IfExists")
	}
	c.negated, c.null = op.negated, op.null
	return c, op, nil
}

func (c *compiler) oneCondition(one *condition, op operator, key string, n *node) error {
	var err error
	if one.key, err = newConditionKey(key); err != nil {
		return c.fail(n, "%q is not a condition key: %v", key, err)
	}
	if err := c.refuseOverlyPermissive(one, n); err != nil {
		return err
	}
	list := []*node{n}
	if n.kind == jsontext.KindBeginArray {
		list = n.values
	}
	if len(list) == 0 {
		return c.fail(n, "the condition key has an empty list of values")
	}
	for _, item := range list {
		switch item.kind {
		case jsontext.KindString, jsontext.KindNumber, jsontext.KindTrue, jsontext.KindFalse:
		default:
			return c.fail(item, "a condition value must be a string, a number or a boolean")
		}
		if err := c.conditionValue(one, op, item); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) conditionValue(one *condition, op operator, n *node) error {
	if op.null {
		wantAbsent, ok := parseBool(n.text)
		if !ok {
			return c.fail(n, "a value of Null must be true or false")
		}
		if wantAbsent {
			one.nullWants[1] = true
		} else {
			one.nullWants[0] = true
		}
		return nil
	}
	o, err := op.compile(n.text, c.variables)
	if err != nil {
		return c.fail(n, "%v", err)
	}
	one.operands = append(one.operands, o)
	one.hasVars = one.hasVars || c.variables && strings.Contains(n.text, "${")
	return nil
}

// refuseOverlyPermissive refuses ForAllValues with the single-valued keys of
// encryption contexts and tags, as AWS KMS does: it would match requests without
// them.
// https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#set-operators
func (c *compiler) refuseOverlyPermissive(one *condition, n *node) error {
	if one.quantity != forAllValues {
		return nil
	}
	what := "encryption context"
	if strings.HasPrefix(one.key.lower, requestTagPrefix) {
		what = "tag"
	} else if one.key.kind != keyEncryptionContext {
		return nil
	}
	return c.fail(n, "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key "+
		"matches requests without the specified %s or with an unspecified %s. To fix, remove ForAllValues.", what, what)
}

func newStringOperand(fold bool) func(string, bool) (operand, error) {
	return func(text string, variables bool) (operand, error) {
		p, err := compilePattern(text, false, variables)
		return &stringOperand{pattern: p, fold: fold}, err
	}
}

func newLikeOperand(text string, variables bool) (operand, error) {
	p, err := compilePattern(text, true, variables)
	return &likeOperand{pattern: p}, err
}

func newARNOperand(text string, variables bool) (operand, error) {
	if text == "*" {
		return &arnOperand{star: true}, nil
	}
	parts, ok := splitARNPattern(text, variables)
	if !ok {
		return nil, fmt.Errorf("%q is not an ARN", text)
	}
	o := &arnOperand{}
	for i, part := range parts {
		var err error
		if o.parts[i], err = compilePattern(part, true, variables); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// splitARNPattern cuts a pattern into the parts of an ARN. Colons inside a
// policy variable do not count.
func splitARNPattern(text string, variables bool) (parts [arnParts]string, ok bool) {
	start, part, inVariable := 0, 0, false
	for i := 0; i < len(text) && part < arnParts-1; i++ {
		switch {
		case variables && strings.HasPrefix(text[i:], "${"):
			inVariable = true
		case inVariable && text[i] == '}':
			inVariable = false
		case !inVariable && text[i] == ':':
			parts[part] = text[start:i]
			part++
			start = i + 1
		}
	}
	parts[part] = text[start:]
	return parts, part == arnParts-1
}

func newNumberOperand(r relation) func(string, bool) (operand, error) {
	return func(text string, _ bool) (operand, error) {
		n, ok := parseDecimal(text)
		if !ok {
			return nil, fmt.Errorf("%q is not a decimal number", text)
		}
		return &numberOperand{relation: r, number: n}, nil
	}
}

func newDateOperand(r relation) func(string, bool) (operand, error) {
	return func(text string, _ bool) (operand, error) {
		t, ok := parseDate(text)
		if !ok {
			return nil, fmt.Errorf("%q is neither an ISO 8601 date nor seconds of the Unix epoch", text)
		}
		return &dateOperand{relation: r, time: t}, nil
	}
}

func newBoolOperand(text string, _ bool) (operand, error) {
	b, ok := parseBool(text)
	if !ok {
		return nil, fmt.Errorf("%q is neither true nor false", text)
	}
	return &boolOperand{value: b}, nil
}

func newBinaryOperand(text string, _ bool) (operand, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("the value is not base64")
	}
	return &binaryOperand{bytes: string(b)}, nil
}

func newNetworkOperand(text string, _ bool) (operand, error) {
	prefix, ok := parseNetwork(text)
	if !ok {
		return nil, fmt.Errorf("%q is neither an IP address nor a CIDR block", text)
	}
	return &networkOperand{prefix: prefix}, nil
}
