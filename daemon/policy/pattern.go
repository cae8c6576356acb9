package policy

import (
	"fmt"
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
	partOne           // ?
	partVar           // ${key} or ${key, 'default'}
)

type part struct {
	kind partKind
	text string // of partText; of partVar the default
	key  conditionKey
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

func (p *pattern) addWildcard(c byte) {
	kind := partAny
	if c == '?' {
		kind = partOne
	} else if last := len(p.parts) - 1; last >= 0 && p.parts[last].kind == partAny {
		return // ** is *
	}
	p.parts = append(p.parts, part{kind: kind})
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
	p.parts = append(p.parts, part{kind: partVar, text: fallback, key: key, hasDefault: hasDefault})
	p.hasVars = true
	return nil
}

// isStar reports whether the pattern matches everything.
func (p *pattern) isStar() bool { return len(p.parts) == 1 && p.parts[0].kind == partAny }

// matchLiteral matches a pattern that has no variables.
func (p *pattern) matchLiteral(value string) bool {
	if p.isExact {
		return p.exact == value
	}
	return matchParts(p.parts, value)
}

// match reports whether the pattern matches value. A pattern with a variable
// that the request gives no value is not resolved, and matches nothing.
func (p *pattern) match(e *evaluation, value string) (matched, resolved bool) {
	if !p.hasVars {
		return p.matchLiteral(value), true
	}
	parts, ok := e.resolve(p)
	if !ok {
		return false, false
	}
	return matchParts(parts, value), true
}

// text returns the text of a pattern without wildcards.
func (p *pattern) text(e *evaluation) (text string, resolved bool) {
	if p.isExact {
		return p.exact, true
	}
	parts, ok := e.resolve(p)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := range parts {
		b.WriteString(parts[i].text)
	}
	return b.String(), true
}

// resolvable reports whether the request gives every variable a value.
func (p *pattern) resolvable(e *evaluation) bool {
	if !p.hasVars {
		return true
	}
	_, ok := e.resolve(p)
	return ok
}

// matchParts matches parts, in which variables have been replaced by text. On a
// mismatch only the last * is tried again, so the time is at most the product
// of the two lengths.
func matchParts(parts []part, value string) bool {
	p, v := 0, 0
	retryPart, retryValue := -1, 0
	for {
		if p == len(parts) && v == len(value) {
			return true
		}
		if p < len(parts) {
			switch part := &parts[p]; part.kind {
			case partAny:
				if p == len(parts)-1 {
					return true
				}
				p++
				retryPart, retryValue = p, v
				continue
			case partOne:
				if v < len(value) {
					_, size := utf8.DecodeRuneInString(value[v:])
					p, v = p+1, v+size
					continue
				}
			default:
				if strings.HasPrefix(value[v:], part.text) {
					p, v = p+1, v+len(part.text)
					continue
				}
			}
		}
		if retryPart < 0 || retryValue >= len(value) {
			return false
		}
		_, size := utf8.DecodeRuneInString(value[retryValue:])
		retryValue += size
		if next := &parts[retryPart]; next.kind == partText {
			skip := strings.Index(value[retryValue:], next.text)
			if skip < 0 {
				return false
			}
			retryValue += skip
		}
		p, v = retryPart, retryValue
	}
}
