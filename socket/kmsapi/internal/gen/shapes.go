package main

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

// shapes writes the constraints of the simple types that requests contain.
func (w *writer) shapes() {
	used := w.reachable(w.inputs()...)
	w.line("var (")
	for _, name := range w.Shapes.names {
		s := w.Shapes.by[name]
		if !used[name] {
			continue
		}
		switch s.Type {
		case "string":
			if s.Enum == nil {
				w.line("%s = stringShape{%s}", shapeOf(name), stringFields(s))
			}
		case "blob":
			w.line("%s = blobShape{min: %d, max: %d}", shapeOf(name), s.Min, s.Max)
		case "integer":
			w.line("%s = intShape{min: %d, max: %d}", shapeOf(name), s.Min, s.Max)
		case "list":
			if w.goType(name) == "[]string" {
				w.line("%s = listShape{min: %d, max: %d}", shapeOf(name), s.Min, s.Max)
			} else if s.Min != 0 || s.Max != 0 {
				panic("a list of enums or structures with limits: " + name)
			}
		}
	}
	w.line(")")
}

func shapeOf(name string) string { return lowerCamel(name) + "Shape" }

func stringFields(s shape) string {
	var fields []string
	if s.Min > 0 {
		fields = append(fields, fmt.Sprintf("min: %d", s.Min))
	}
	if s.Max > 0 {
		fields = append(fields, fmt.Sprintf("max: %d", s.Max))
	}
	if s.Pattern != "" {
		fields = append(fields, fmt.Sprintf("pattern: &pattern{%s, %s}", literal(s.Pattern), matcher(s.Pattern)))
	}
	if s.Sensitive {
		fields = append(fields, "sensitive: true")
	}
	return strings.Join(fields, ", ")
}

func literal(s string) string {
	if strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}

// The model's expressions are Java's. Most of what they use means the same in RE2: \w and \d are ASCII,
// ^ and $ stand at the ends of the value only. These do not.
var (
	codePoint  = regexp.MustCompile(`\\u([0-9A-F]{4})`)
	whiteSpace = strings.NewReplacer(`\s`, `\t\n\x0B\f\r `)      // only used within brackets; RE2's lacks the vertical tab
	ascii      = strings.NewReplacer(`\p{ASCII}`, `[\x00-\x7F]`) // only used outside of brackets
)

// translate turns one of the model's expressions into an RE2 expression that matches whole values.
func translate(java string) string {
	return `\A(?:` + ascii.Replace(whiteSpace.Replace(codePoint.ReplaceAllString(java, `\x{$1}`))) + `)\z`
}

// matcher is the Go expression of a function that matches what the Java expression matches.
func matcher(java string) string {
	re2 := translate(java)
	parsed, err := syntax.Parse(re2, syntax.Perl)
	if err != nil {
		panic(fmt.Sprintf("pattern %s: %v", java, err))
	}
	if class, atLeast, simple := characters(parsed.Simplify()); simple {
		args := []string{strconv.Itoa(atLeast)}
		for _, r := range class {
			args = append(args, strconv.QuoteRuneToASCII(r))
		}
		return "characters(" + strings.Join(args, ", ") + ")"
	}
	return "expression(" + literal(re2) + ")"
}

// characters recognises an expression of the form [class]* or [class]+ between anchors.
func characters(re *syntax.Regexp) (class []rune, atLeast int, simple bool) {
	if re.Op != syntax.OpConcat {
		return nil, 0, false
	}
	for _, part := range re.Sub {
		switch part.Op {
		case syntax.OpBeginText, syntax.OpEndText:
		case syntax.OpStar, syntax.OpPlus:
			if class != nil || part.Sub[0].Op != syntax.OpCharClass {
				return nil, 0, false
			}
			class = part.Sub[0].Rune
			if part.Op == syntax.OpPlus {
				atLeast = 1
			}
		default:
			return nil, 0, false
		}
	}
	return class, atLeast, class != nil
}
