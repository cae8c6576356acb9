package config

import (
	"errors"
	"fmt"
	"regexp"
)

// principalForm is the ARN of a user, group or role, with the path that AWS
// allows before the name, in any account.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-arns
var principalForm = regexp.MustCompile(`^arn:aws:iam::([0-9]{12}):(user|group|role)/((?:[!-),-.0->@-~]+/)*)([\w+=,.@-]{1,64})$`)

// accessKeyForm is AWS's pattern of access key IDs.
var accessKeyForm = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)

// PrincipalName are the parts of a principal's ARN that matter here.
type PrincipalName struct{ Kind, Name string }

// ParsePrincipal parses the ARN of a user, group or role of the account.
func ParsePrincipal(account, arn string) (PrincipalName, error) {
	m := principalForm.FindStringSubmatch(arn)
	if m == nil || m[1] != account {
		return PrincipalName{}, fmt.Errorf("%q is not an ARN of the form arn:aws:iam::%s:role/NAME, with user, group or role", arn, account)
	}
	return PrincipalName{Kind: m[2], Name: m[4]}, nil
}

// checkPrincipals checks what the configuration says of principals.
func (c *Config) checkPrincipals() error {
	for _, arn := range c.Principals.Known {
		if _, err := ParsePrincipal(c.Account, arn); err != nil {
			return fmt.Errorf("principals: known: %w", err)
		}
	}
	for i := range c.Principals.Map {
		if err := c.Principals.Map[i].check(c.Account); err != nil {
			return fmt.Errorf("principals: map %d: %w", i+1, err)
		}
	}
	ids := map[string]bool{}
	for _, k := range c.AccessKeys {
		if err := k.check(c.Account); err != nil {
			return fmt.Errorf("access key %q: %w", k.ID, err)
		}
		if ids[k.ID] {
			return fmt.Errorf("two access keys have the ID %q", k.ID)
		}
		ids[k.ID] = true
	}
	return nil
}

func (m *Map) check(account string) error {
	if m.Unit == "" && m.User == "" && m.Group == "" {
		return errors.New("give unit, user or group")
	}
	if m.Unit != "" {
		if err := CheckUnit(m.Unit); err != nil {
			return err
		}
	}
	p, err := ParsePrincipal(account, m.ARN)
	if err != nil {
		return err
	}
	if p.Kind == "group" && (m.Unit != "" || m.User != "" || len(m.Tags) > 0) {
		return fmt.Errorf("%s is a group's: it goes with a group alone, without tags", m.ARN)
	}
	return nil
}

func (k *AccessKey) check(account string) error {
	if !accessKeyForm.MatchString(k.ID) {
		return errors.New("an access key ID has 16 to 128 letters and digits")
	}
	if k.SecretFile == "" {
		return errors.New("secret_file is missing")
	}
	p, err := ParsePrincipal(account, k.Principal)
	if err != nil {
		return fmt.Errorf("principal: %w", err)
	}
	if p.Kind == "group" {
		return errors.New("principal must be a user or a role")
	}
	return nil
}
