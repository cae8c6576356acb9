package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// pattern is a string of a policy: text, wildcards where the element has them,
// and policy variables where the version has them.
//
// What a variable stands for is text: a wildcard in a user's name or tag matches
// only itself.
type pattern struct {
	parts []part
	// exact is the whole text of a pattern without wildcards and variables.
	exact   string
	isExact bool
	hasVars bool
}

type partKind uint8

const (
	partText partKind = iota
	partAny           // *
	partOne           // ?, ??, ...
	partVar           // ${key} or ${key, 'default'}
)

type part struct {
	kind  partKind
	text  string        // of partText; of partVar the default
	count int           // of partOne: how many of them
	key   *conditionKey // of partVar
	// hasDefault: text stands in where the request has no value for key.
	hasDefault bool
}

// compilePattern reads a pattern. With wildcards, * and ? are special; with
// variables, ${…} is.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
func compilePattern(text string, wildcards, variables bool) (pattern, error) {
	var p pattern
	literal := 0
	flush := func(end int) {
		if end > literal {
			p.addText(text[literal:end])
		}
	}
	for i := 0; i < len(text); {
		switch {
		case wildcards && (text[i] == '*' || text[i] == '?'):
			flush(i)
			p.addWildcard(text[i])
			i++
			literal = i
		case variables && strings.HasPrefix(text[i:], "${"):
			flush(i)
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return pattern{}, fmt.Errorf("the policy variable %q has no closing brace", text[i:])
			}
			if err := p.addVariable(text[i+2 : i+end]); err != nil {
				return pattern{}, err
			}
			i += end + 1
			literal = i
		default:
			i++
		}
	}
	flush(len(text))
	p.isExact = len(p.parts) == 0 || len(p.parts) == 1 && p.parts[0].kind == partText
	if p.isExact && len(p.parts) == 1 {
		p.exact = p.parts[0].text
	}
	return p, nil
}

// addText appends text, joining it to text before it (after a ${*}).
func (p *pattern) addText(text string) {
	if last := len(p.parts) - 1; last >= 0 && p.parts[last].kind == partText {
		p.parts[last].text += text
		return
	}
	p.parts = append(p.parts, part{kind: partText, text: text})
}

// addWildcard appends a * or ?. Those that stand together are brought into one
// form, at most one partOne and at most one partAny after it: ?*?** is ??*.
func (p *pattern) addWildcard(c byte) {
	last := len(p.parts) - 1
	star := last >= 0 && p.parts[last].kind == partAny
	if c == '*' {
		if !star {
			p.parts = append(p.parts, part{kind: partAny})
		}
		return
	}
	if star {
		last--
	}
	if last >= 0 && p.parts[last].kind == partOne {
		p.parts[last].count++
		return
	}
	p.parts = slices.Insert(p.parts, last+1, part{kind: partOne, count: 1})
}

// addVariable appends what stands between ${ and }: one of the characters *, ?
// and $, or a condition key, which may be followed by a default in quotes.
func (p *pattern) addVariable(inner string) error {
	switch inner {
	case "*", "?", "$":
		p.addText(inner)
		return nil
	}
	name, fallback, hasDefault := strings.Cut(inner, ",")
	if hasDefault {
		fallback = strings.TrimLeft(fallback, " ")
		if len(fallback) < 2 || fallback[0] != '\'' || strings.IndexByte(fallback[1:], '\'') != len(fallback)-2 {
			return fmt.Errorf("the default in the policy variable ${%s} is not in single quotes", inner)
		}
		fallback = fallback[1 : len(fallback)-1]
	}
	if strings.ContainsAny(name, " '${") {
		return fmt.Errorf("${%s} is not a policy variable", inner)
	}
	key, err := newConditionKey(name)
	if err != nil {
		return fmt.Errorf("${%s} is not a policy variable: %w", inner, err)
	}
	p.parts = append(p.parts, part{kind: partVar, text: fallback, key: &key, hasDefault: hasDefault})
	p.hasVars = true
	return nil
}

// isStar reports whether the pattern matches everything.
func (p *pattern) isStar() bool { return len(p.parts) == 1 && p.parts[0].kind == partAny }

// matchLiteral matches a pattern that has no variables.
func (p *pattern) matchLiteral(b *budget, value string) bool {
	if p.isExact {
		return p.exact == value
	}
	return matchParts(b, p.parts, value)
}

// match reports whether the pattern matches value. A pattern with a variable
// that the request gives no value is not resolved, and matches nothing.
func (p *pattern) match(e *evaluation, value string) (matched, resolved bool) {
	e.budget.spend(1)
	if !p.hasVars {
		return p.matchLiteral(&e.budget, value), true
	}
	parts, ok := e.resolve(p)
	if !ok {
		return false, false
	}
	return matchParts(&e.budget, parts, value), true
}

// equals compares value with a pattern without wildcards, fold without regard
// to case.
func (p *pattern) equals(e *evaluation, value string, fold bool) (matched, resolved bool) {
	e.budget.spend(1)
	text := p.exact
	if !p.isExact {
		parts, ok := e.resolve(p)
		if !ok {
			return false, false
		}
		// What folds alike may differ in length, but not more than the shortest
		// and the longest character. Beyond that nothing needs to be put together.
		length := minLength(parts)
		if length > utf8.UTFMax*len(value) || len(value) > utf8.UTFMax*length {
			return false, true
		}
		text = joined(parts, length)
		e.budget.spend(len(text) / bytesPerStep)
	}
	if fold {
		e.budget.spend(min(len(text), len(value)))
		return strings.EqualFold(text, value), true
	}
	return text == value, true
}

func joined(parts []part, length int) string {
	var b strings.Builder
	b.Grow(length)
	for i := range parts {
		b.WriteString(parts[i].text)
	}
	return b.String()
}

// resolvable reports whether the request gives every variable a value.
func (p *pattern) resolvable(e *evaluation) bool {
	if !p.hasVars {
		return true
	}
	_, ok := e.resolve(p)
	return ok
}
