package policy

import (
	"regexp"

	"cmkd/daemon/keys"

	"github.com/go-json-experiment/json/jsontext"
)

// The forms of a principal. A wildcard cannot stand for part of one, and the
// partition is always aws: as in AWS, no principal of another one is valid.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
var (
	accountForm = regexp.MustCompile(`^(?:arn:aws:iam::([0-9]{12}):root|([0-9]{12}))$`)
	groupForm   = regexp.MustCompile(`^arn:aws:iam::[0-9]{12}:group/[^*?\s]+$`)
	arnForm     = regexp.MustCompile(`^arn:aws:(?:iam::[0-9]{12}:(?:user|role)/[^*?\s]+` +
		`|sts::[0-9]{12}:(?:assumed-role/[^*?\s/]+/[^*?\s/]+|federated-user/[^*?\s]+))$`)
	serviceForm = regexp.MustCompile(`^[a-z0-9-]+(?:\.[a-z0-9-]+)+$`)
)

// IsService reports whether name has the form of the name of an AWS service,
// such as "ec2.amazonaws.com".
func IsService(name string) bool { return serviceForm.MatchString(name) }

// principal compiles Principal or NotPrincipal, which every statement of a key
// policy must have and none of an identity policy may have.
func (c *compiler) principal(s *statement, n *node) error {
	element, not, err := c.either(n, "Principal")
	if err != nil {
		return err
	}
	if c.document.kind == IdentityPolicy {
		if element != nil {
			return c.fail(element, "a statement of an identity policy names no principal")
		}
		return nil
	}
	if element == nil {
		return c.fail(n, "the statement has no Principal")
	}
	s.principals.not = not
	if element.kind == jsontext.KindString && element.text == "*" {
		s.principals.any = true
		return nil
	}
	if element.kind != jsontext.KindBeginObject {
		return c.fail(element, `the Principal must be "*" or a JSON object such as {"AWS": "arn"}`)
	}
	if len(element.values) == 0 {
		return c.fail(element, "the Principal is an empty object")
	}
	for i, name := range element.names {
		if err := c.principals(&s.principals, name, element.values[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) principals(set *principalSet, name string, n *node) error {
	list, err := c.strings(n, "the Principal")
	if err != nil {
		return err
	}
	for _, item := range list {
		valid := true
		switch name {
		case "AWS":
			valid = c.awsPrincipal(set, item.text)
		case "Service":
			if valid = IsService(item.text); valid {
				set.ids = append(set.ids, item.text)
				c.document.principals = append(c.document.principals, item.text)
			}
		case "Federated", "CanonicalUser":
			// Part of the grammar; no caller of this service is one.
		default:
			return c.fail(n, "a Principal has no element %q", name)
		}
		if !valid {
			return c.fail(item, "Policy contains a statement with one or more invalid principals.")
		}
	}
	return nil
}

func (c *compiler) awsPrincipal(set *principalSet, text string) bool {
	name := text
	switch {
	case text == "*":
		set.any = true
		return true
	case accountForm.MatchString(text):
		m := accountForm.FindStringSubmatch(text)
		set.accounts = append(set.accounts, m[1]+m[2])
		if m[2] != "" {
			name = keys.RootARN(m[2])
		}
	case groupForm.MatchString(text):
		set.groups = append(set.groups, text)
	case arnForm.MatchString(text):
		set.ids = append(set.ids, text)
	default:
		return false
	}
	c.document.principals = append(c.document.principals, name)
	return true
}
