package policy

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is how deep a document may nest. The grammar itself needs seven
// levels: document, Statement, statement, Condition, operator, key, values.
const maxDepth = 8

// node is a JSON value with its place. The tree is read whole before it is
// compiled because Version, which may come last, decides what the strings mean.
type node struct {
	kind    jsontext.Kind // one of { [ " 0 t f n
	text    string        // of a string, its value; of a number or boolean, its spelling
	names   []string      // of an object, the names of its members in order
	values  []*node       // the members of an object or the items of an array
	offset  int           // of the first byte
	parent  *node
	element string // the name in parent, "" in arrays
	index   int    // the place in parent if that is an array
}

// path returns the way to n from the top, such as "Statement[0].Action".
func (n *node) path() string {
	if n.parent == nil {
		return ""
	}
	prefix := n.parent.path()
	if n.parent.kind == '[' {
		return prefix + "[" + strconv.Itoa(n.index) + "]"
	}
	if prefix != "" {
		prefix += "."
	}
	return prefix + n.element
}

// member returns the member of an object, nil if there is none.
func (n *node) member(name string) *node {
	for i, have := range n.names {
		if have == name {
			return n.values[i]
		}
	}
	return nil
}

// reader builds the tree. jsontext refuses duplicate names and invalid UTF-8.
type reader struct {
	text []byte
	dec  *jsontext.Decoder
}

// readTree reads text as exactly one JSON value.
func readTree(text []byte) (*node, error) {
	if len(text) > MaxSize {
		return nil, syntaxError(text, MaxSize, "", "the policy is %d bytes long, at most %d are allowed", len(text), MaxSize)
	}
	if err := checkCharacters(text); err != nil {
		return nil, err
	}
	r := &reader{text: text, dec: jsontext.NewDecoder(bytes.NewReader(text))}
	root, err := r.value(nil, 1)
	if err != nil {
		return nil, err
	}
	end := int(r.dec.InputOffset())
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, syntaxError(text, skipSpace(text, end), "", "there is more after the end of the policy")
	}
	return root, nil
}

// checkCharacters accepts the characters of AWS's Policy parameter:
// [\u0009\u000A\u000D\u0020-\u00FF]. Others can be written as \u escapes.
func checkCharacters(text []byte) error {
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRune(text[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			return syntaxError(text, i, "", "the policy is not valid UTF-8")
		case c > 0xFF, c < ' ' && c != '\t' && c != '\n' && c != '\r':
			return syntaxError(text, i, "", "the policy contains the character %U, which is not allowed", c)
		}
		i += size
	}
	return nil
}

func (r *reader) value(parent *node, depth int) (*node, error) {
	n := &node{parent: parent, offset: skipSpace(r.text, int(r.dec.InputOffset()))}
	if depth > maxDepth {
		return nil, syntaxError(r.text, n.offset, "", "the policy nests deeper than %d levels", maxDepth)
	}
	token, err := r.dec.ReadToken()
	if err != nil {
		return nil, r.wrap(err)
	}
	n.kind = token.Kind()
	switch n.kind {
	case '{':
		return n, r.object(n, depth)
	case '[':
		return n, r.array(n, depth)
	default:
		n.text = token.String()
		return n, nil
	}
}

func (r *reader) object(n *node, depth int) error {
	for r.dec.PeekKind() != '}' {
		name, err := r.dec.ReadToken()
		if err != nil {
			return r.wrap(err)
		}
		element := name.String()
		child, err := r.value(n, depth+1)
		if err != nil {
			return err
		}
		child.element = element
		n.names = append(n.names, element)
		n.values = append(n.values, child)
	}
	_, err := r.dec.ReadToken()
	return r.wrap(err)
}

func (r *reader) array(n *node, depth int) error {
	for r.dec.PeekKind() != ']' {
		child, err := r.value(n, depth+1)
		if err != nil {
			return err
		}
		child.index = len(n.values)
		n.values = append(n.values, child)
	}
	_, err := r.dec.ReadToken()
	return r.wrap(err)
}

// wrap turns an error of jsontext into a [*SyntaxError].
func (r *reader) wrap(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return syntaxError(r.text, len(r.text), "", "the policy ends before its JSON is complete")
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		path := dotted(syntactic.JSONPointer)
		return syntaxError(r.text, int(syntactic.ByteOffset), path, "the policy is not valid JSON: %v", syntactic.Err)
	}
	return syntaxError(r.text, int(r.dec.InputOffset()), "", "the policy is not valid JSON: %v", err)
}

// dotted writes a JSON pointer as [node.path] does.
func dotted(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		if _, err := strconv.ParseUint(token, 10, 32); err == nil {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
	return b.String()
}

// skipSpace returns the offset of the next value: past white space and the
// separators, which jsontext counts to what follows.
func skipSpace(text []byte, offset int) int {
	for offset < len(text) && strings.IndexByte(" \t\r\n,:", text[offset]) >= 0 {
		offset++
	}
	return offset
}
