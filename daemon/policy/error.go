package policy

import (
	"fmt"
	"unicode/utf8"
)

// SyntaxError says what is wrong with a policy document and where. The text of
// a MalformedPolicyDocumentException is made from it.
type SyntaxError struct {
	// Path leads to the element, such as "Statement[1].Condition.Bool". It is
	// empty where the document as a whole is meant.
	Path string
	// Line and Column count from 1; Column counts characters.
	Line, Column int
	Reason       string
}

// Error implements error.
func (e *SyntaxError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s (line %d, column %d)", e.Reason, e.Line, e.Column)
	}
	return fmt.Sprintf("%s: %s (line %d, column %d)", e.Path, e.Reason, e.Line, e.Column)
}

// syntaxError makes the error for the byte offset of text.
func syntaxError(text []byte, offset int, path, format string, args ...any) *SyntaxError {
	offset = min(offset, len(text))
	e := &SyntaxError{Path: path, Line: 1, Reason: fmt.Sprintf(format, args...)}
	start := 0
	for i, c := range text[:offset] {
		if c == '\n' {
			e.Line++
			start = i + 1
		}
	}
	e.Column = utf8.RuneCount(text[start:offset]) + 1
	return e
}
