package config

import (
	"fmt"
	"regexp"
	"slices"

	"cmkd/daemon/kms"
	"cmkd/daemon/lifecycle"
	"cmkd/daemon/policy/templates"
	"cmkd/socket/kmsapi"
)

// managedAlias is the form of an alias that is kept for managed keys.
var managedAlias = regexp.MustCompile(`^alias/aws/[a-zA-Z0-9_-]{1,200}$`)

// checkManagedKeys checks [[managed_key]].
func (c *Config) checkManagedKeys() error {
	seen := map[string]bool{}
	for _, m := range c.ManagedKeys {
		switch {
		case !managedAlias.MatchString(m.Alias):
			return fmt.Errorf("managed key: alias must be alias/aws/NAME, not %q", m.Alias)
		case seen[m.Alias]:
			return fmt.Errorf("two managed keys have the alias %q", m.Alias)
		case len(m.Description) > 8192:
			return fmt.Errorf("managed key %s: the description is longer than 8192 bytes", m.Alias)
		case len(m.Users) == 0:
			return fmt.Errorf("managed key %s: users must name who may use it, \"*\" for everyone", m.Alias)
		}
		seen[m.Alias] = true
		for _, arn := range m.Users {
			if arn == "*" {
				continue
			}
			if _, err := ParsePrincipal(c.Account, arn); err != nil {
				return fmt.Errorf("managed key %s: %w", m.Alias, err)
			}
		}
	}
	return nil
}

// Managed are the managed keys as package kms knows them.
func (c *Config) Managed() []lifecycle.ManagedKey {
	keys := make([]lifecycle.ManagedKey, len(c.ManagedKeys))
	for i, m := range c.ManagedKeys {
		keys[i] = lifecycle.ManagedKey{Alias: m.Alias, Description: m.Description, Policy: templates.ManagedKeyPolicy(c.Account, m.Users)}
	}
	return keys
}

// check checks [limits].
func (l *Limits) check() error {
	for name, n := range map[string]int{"keys": l.Keys, "aliases_per_key": l.AliasesPerKey, "grants_per_key": l.GrantsPerKey} {
		if n < 0 {
			return fmt.Errorf("limits: %s must not be negative", name)
		}
	}
	for name, rate := range l.RequestRates {
		known := slices.ContainsFunc(kmsapi.Operations, func(o kmsapi.Operation) bool { return o.Name == name })
		if !known && name != kms.EveryOperation {
			return fmt.Errorf("limits: request_rates: unknown operation %q", name)
		}
		if !(rate > 0) {
			return fmt.Errorf("limits: request_rates: %s must be above 0", name)
		}
	}
	return nil
}

// Quotas are the limits as package kms knows them.
func (c *Config) Quotas() kms.Limits {
	l := &c.Limits
	return kms.Limits{
		Keys: l.Keys, AliasesPerKey: l.AliasesPerKey, GrantsPerKey: l.GrantsPerKey, RequestRates: l.RequestRates,
		RefusalRate: c.Audit.RefusalsPerUser, RefusalBurst: c.Audit.RefusalBurst,
	}
}
