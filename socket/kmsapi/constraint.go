package kmsapi

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The shapes below hold the constraints of the model's simple types.
// A minimum of zero and a maximum of zero mean none.

// stringShape limits a string. Lengths count Unicode characters (code points), which is how Smithy defines
// the length of a string and how the KMS documentation counts tags; they are neither bytes nor UTF-16 units.
type stringShape struct {
	min, max  int
	pattern   *pattern
	sensitive bool // never shown in a message
}

// blobShape limits a blob, in bytes after base64. Blobs are never shown in a message.
type blobShape struct{ min, max int }

// intShape limits an integer.
type intShape struct{ min, max int64 }

// listShape limits the number of items.
type listShape struct{ min, max int }

// pattern is one of the model's regular expressions, which must match a whole value.
type pattern struct {
	text    string                  // as the model and AWS's messages have it: a Java expression
	matches func(value string) bool // the same language in Go
}

// expression matches with an RE2 expression that the generator translated and anchored.
func expression(re2 string) func(string) bool { return regexp.MustCompile(re2).MatchString }

// characters matches a string of at least so many characters, all of them in the ranges: lo, hi, lo, hi, ...
// Most patterns of the model have this form, which needs no expression: a policy of 128 KiB takes RE2
// 1.6 ms and this a tenth of that.
func characters(atLeast int, ranges ...rune) func(string) bool {
	in := func(c rune) bool {
		for i := 0; i < len(ranges); i += 2 {
			if ranges[i] <= c && c <= ranges[i+1] {
				return true
			}
		}
		return false
	}
	var ascii [utf8.RuneSelf]bool
	for c := range ascii {
		ascii[c] = in(rune(c))
	}
	return func(value string) bool {
		for _, c := range value {
			if c < utf8.RuneSelf && !ascii[c] || c >= utf8.RuneSelf && !in(c) {
				return false
			}
		}
		return len(value) >= atLeast
	}
}

const notNull = "Member must not be null"

func atLeastLong(n int) string {
	return "Member must have length greater than or equal to " + strconv.Itoa(n)
}

func atMostLong(n int) string {
	return "Member must have length less than or equal to " + strconv.Itoa(n)
}

func (p *pattern) constraint() string {
	return "Member must satisfy regular expression pattern: " + p.text
}

func enumConstraint[E ~string](values []E) string {
	return "Member must satisfy enum value set: [" + join(values) + "]"
}

func memberConstraint(constraints []string) string {
	return "Member must satisfy constraint: [" + strings.Join(constraints, ", ") + "]"
}

// constraints lists all that the shape asks for, as AWS does when an item of a list breaks any of it.
func (s *stringShape) constraints() []string {
	var all []string
	if s.max > 0 {
		all = append(all, atMostLong(s.max))
	}
	if s.min > 0 {
		all = append(all, atLeastLong(s.min))
	}
	if s.pattern != nil {
		all = append(all, s.pattern.constraint())
	}
	return all
}

func (s *stringShape) allows(v string) bool {
	n := utf8.RuneCountInString(v)
	return n >= s.min && (s.max == 0 || n <= s.max) && (s.pattern == nil || s.pattern.matches(v))
}

func (d *decoder) checkString(name string, s *stringShape, v string) {
	if s.allows(v) {
		return
	}
	shown := ""
	if !s.sensitive {
		shown = quoted(v)
	}
	n := utf8.RuneCountInString(v)
	d.checkLength(name, shown, n, s.min, s.max)
	if s.pattern != nil && !s.pattern.matches(v) {
		d.fault(name, shown, s.pattern.constraint())
	}
}

func (d *decoder) checkBlob(name string, s *blobShape, n int) {
	d.checkLength(name, "", n, s.min, s.max)
}

func (d *decoder) checkList(name string, s *listShape, list []string) {
	if n := len(list); n < s.min || s.max > 0 && n > s.max {
		d.checkLength(name, quotedList(list), n, s.min, s.max)
	}
}

func (d *decoder) checkLength(name, shown string, n, least, most int) {
	if n < least {
		d.fault(name, shown, atLeastLong(least))
	}
	if most > 0 && n > most {
		d.fault(name, shown, atMostLong(most))
	}
}

func (d *decoder) checkInt(name string, s *intShape, n int64) {
	if n < s.min {
		d.fault(name, quoted(strconv.FormatInt(n, 10)), "Member must have value greater than or equal to "+strconv.FormatInt(s.min, 10))
	}
	if n > s.max {
		d.fault(name, quoted(strconv.FormatInt(n, 10)), "Member must have value less than or equal to "+strconv.FormatInt(s.max, 10))
	}
}

// require notes that a required member was absent or null.
func (d *decoder) require(present bool, name string) {
	if !present {
		d.fault(name, "null", notNull)
	}
}

// requireSensitive is require for a sensitive member, of which AWS does not even say that it is null.
func (d *decoder) requireSensitive(present bool, name string) {
	if !present {
		d.fault(name, "", notNull)
	}
}

// nullItem notes that an item of the list name, counted from 1, was null.
func (d *decoder) nullItem(name string, i int) {
	if d.err == nil {
		d.faults.add("null", d.at(name)+"."+strconv.Itoa(i)+".member", notNull)
	}
}

// fault notes that the member name of the current structure breaks a constraint.
// shown is the value as the message has it; empty hides it.
func (d *decoder) fault(name, shown, constraint string) {
	if d.err == nil {
		d.faults.add(shown, d.at(name), constraint)
	}
}

// at is the path of a member of the current structure.
func (d *decoder) at(name string) string {
	return string(d.path) + string(appendLowerCamel(nil, name))
}

// maxFaults bounds the text of a ValidationException: a body of 1 MiB can break 700,000 constraints.
// The count in the message is still that of all of them.
const maxFaults = 50

// faults are the constraints that a request breaks.
type faults struct {
	count int
	text  []byte
}

func (f *faults) add(shown, path, constraint string) {
	f.count++
	if f.count > maxFaults {
		return
	}
	if f.count > 1 {
		f.text = append(f.text, "; "...)
	}
	f.text = append(f.text, "Value "...)
	if shown != "" {
		f.text = append(append(f.text, shown...), ' ')
	}
	f.text = append(append(append(f.text, "at '"...), path...), "' failed to satisfy constraint: "...)
	f.text = append(f.text, constraint...)
}

// err is nil, or one ValidationException that counts and words all faults as AWS does.
func (f *faults) err() error {
	if f.count == 0 {
		return nil
	}
	noun := " validation error detected: "
	if f.count > 1 {
		noun = " validation errors detected: "
	}
	return &Error{Code: CodeValidationException, Message: strconv.Itoa(f.count) + noun + string(f.text)}
}

func quoted(value string) string { return "'" + value + "'" }

func quotedList[E ~string](values []E) string { return "'[" + join(values) + "]'" }

func join[E ~string](values []E) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}
