package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Option changes how [Parse] works.
type Option func(*Document)

// WithName names the policy in decisions and traces, such as by its file.
func WithName(name string) Option { return func(d *Document) { d.name = name } }

// Parse parses and compiles a policy document of at most [MaxSize] bytes. Its
// errors are [*SyntaxError].
//
// The grammar is AWS's, read strictly: unknown elements, duplicate names, empty
// lists, and anything after the document are refused, as is a value that does
// not fit its operator.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
func Parse(text []byte, kind Kind, options ...Option) (*Document, error) {
	root, err := readTree(text)
	if err != nil {
		return nil, err
	}
	d := &Document{kind: kind, version: "2008-10-17"}
	for _, option := range options {
		option(d)
	}
	c := &compiler{text: text, document: d, sids: make(map[string]bool)}
	if err := c.compile(root); err != nil {
		return nil, err
	}
	slices.Sort(d.principals)
	d.principals = slices.Compact(d.principals)
	d.wordDecisions()
	return d, nil
}

// compiler turns the tree into a Document.
type compiler struct {
	text     []byte
	document *Document
	// variables: the version has policy variables.
	variables bool
	sids      map[string]bool // of an identity policy
}

func (c *compiler) fail(at *node, format string, args ...any) error {
	return syntaxError(c.text, at.offset, at.path(), format, args...)
}

// elements checks that n is an object of no other members than these.
func (c *compiler) elements(n *node, what string, names ...string) error {
	if n.kind != jsontext.KindBeginObject {
		return c.fail(n, "%s must be a JSON object", what)
	}
	for i, name := range n.names {
		if !slices.Contains(names, name) {
			return c.fail(n.values[i], "%s has no element %q", what, name)
		}
	}
	return nil
}

func (c *compiler) compile(root *node) error {
	if err := c.elements(root, "a policy", "Version", "Id", "Statement"); err != nil {
		return err
	}
	if n := root.member("Version"); n != nil {
		if n.kind != jsontext.KindString || n.text != "2012-10-17" && n.text != "2008-10-17" {
			return c.fail(n, `the version must be "2012-10-17" or "2008-10-17"`)
		}
		c.document.version = n.text
		c.variables = n.text == "2012-10-17"
	}
	if n := root.member("Id"); n != nil {
		if c.document.kind == IdentityPolicy {
			return c.fail(n, "an identity policy has no Id")
		}
		if n.kind != jsontext.KindString {
			return c.fail(n, "the Id must be a string")
		}
		c.document.id = n.text
	}
	statements := root.member("Statement")
	if statements == nil {
		return c.fail(root, "the policy has no Statement")
	}
	list := []*node{statements} // a single statement needs no list
	if statements.kind == jsontext.KindBeginArray {
		list = statements.values
	}
	if len(list) == 0 {
		return c.fail(statements, "the policy has no statement")
	}
	c.document.statements = make([]statement, len(list))
	for i, n := range list {
		if err := c.statement(&c.document.statements[i], n); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) statement(s *statement, n *node) error {
	err := c.elements(n, "a statement", "Sid", "Effect", "Principal", "NotPrincipal",
		"Action", "NotAction", "Resource", "NotResource", "Condition")
	if err != nil {
		return err
	}
	steps := []func(*statement, *node) error{
		c.sid, c.effect, c.principal, c.action, c.resource, c.condition,
	}
	for _, step := range steps {
		if err := step(s, n); err != nil {
			return err
		}
	}
	return nil
}

var identitySid = regexp.MustCompile(`^[A-Za-z0-9]*$`)

// sid compiles the Sid, free text in a key policy. In an identity policy it has
// letters and digits only and no two statements share one.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_sid.html
func (c *compiler) sid(s *statement, n *node) error {
	sid := n.member("Sid")
	if sid == nil {
		return nil
	}
	if sid.kind != jsontext.KindString {
		return c.fail(sid, "the Sid must be a string")
	}
	s.sid = sid.text
	if c.document.kind != IdentityPolicy {
		return nil
	}
	if !identitySid.MatchString(sid.text) {
		return c.fail(sid, "the Sid of an identity policy may contain only letters and digits")
	}
	if sid.text != "" && c.sids[sid.text] {
		return c.fail(sid, "the Sid %q is not unique in the policy", sid.text)
	}
	c.sids[sid.text] = true
	return nil
}

func (c *compiler) effect(s *statement, n *node) error {
	effect := n.member("Effect")
	switch {
	case effect == nil:
		return c.fail(n, "the statement has no Effect")
	case effect.kind == jsontext.KindString && effect.text == "Allow":
		s.effect = Allow
	case effect.kind == jsontext.KindString && effect.text == "Deny":
		s.effect = Deny
	default:
		return c.fail(effect, `the Effect must be "Allow" or "Deny"`)
	}
	return nil
}

// either returns which of the elements name and "Not"+name the statement has.
func (c *compiler) either(n *node, name string) (element *node, not bool, err error) {
	yes, no := n.member(name), n.member("Not"+name)
	if yes != nil && no != nil {
		return nil, false, c.fail(no, "a statement cannot have both %s and Not%s", name, name)
	}
	if no != nil {
		return no, true, nil
	}
	return yes, false, nil
}

// strings returns the strings of an element that is a string or a list of them.
func (c *compiler) strings(n *node, what string) ([]*node, error) {
	list := []*node{n}
	if n.kind == jsontext.KindBeginArray {
		list = n.values
	}
	if len(list) == 0 {
		return nil, c.fail(n, "%s is an empty list", what)
	}
	for _, item := range list {
		if item.kind != jsontext.KindString {
			return nil, c.fail(item, "%s must be a string or a list of strings", what)
		}
	}
	return list, nil
}

// actionForm is a service and an action, of which the action may have wildcards.
var actionForm = regexp.MustCompile(`^(?:\*|[A-Za-z0-9*?-]+:[A-Za-z0-9*?]+)$`)

func (c *compiler) action(s *statement, n *node) error {
	element, not, err := c.either(n, "Action")
	if err != nil {
		return err
	}
	if element == nil {
		return c.fail(n, "the statement has no Action")
	}
	list, err := c.strings(element, "the Action")
	if err != nil {
		return err
	}
	patterns := make([]pattern, len(list))
	for i, item := range list {
		if !actionForm.MatchString(item.text) {
			return c.fail(item, `the action %q is neither "*" nor of the form "service:Action"`, item.text)
		}
		patterns[i], err = compilePattern(strings.ToLower(item.text), true, false)
		if err != nil {
			return c.fail(item, "%v", err)
		}
	}
	s.actions = newActionSet(patterns, not)
	return nil
}

func (c *compiler) resource(s *statement, n *node) error {
	element, not, err := c.either(n, "Resource")
	if err != nil {
		return err
	}
	if element == nil {
		if c.document.kind == IdentityPolicy {
			return c.fail(n, "the statement has no Resource")
		}
		s.resources.absent = true
		return nil
	}
	list, err := c.strings(element, "the Resource")
	if err != nil {
		return err
	}
	s.resources.not = not
	s.resources.patterns = make([]pattern, len(list))
	for i, item := range list {
		p, err := c.resourcePattern(item)
		if err != nil {
			return err
		}
		s.resources.patterns[i] = p
		s.resources.all = s.resources.all || p.isStar() && !not
	}
	return nil
}

// resourcePattern compiles "*" or an ARN, whose parts may have wildcards and
// whose last part may have variables.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html
func (c *compiler) resourcePattern(n *node) (pattern, error) {
	if n.text != "*" && !strings.HasPrefix(n.text, "arn:") {
		return pattern{}, c.fail(n, `the resource %q is neither "*" nor an ARN`, n.text)
	}
	if at := strings.Index(n.text, "${"); c.variables && at >= 0 && strings.Count(n.text[:at], ":") < arnParts-1 {
		return pattern{}, c.fail(n, "a policy variable may stand only in the last part of an ARN")
	}
	p, err := compilePattern(n.text, true, c.variables)
	if err != nil {
		return pattern{}, c.fail(n, "%v", err)
	}
	return p, nil
}
