package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/BurntSushi/toml"
)

// Load reads and checks a configuration file.
func Load(path string) (*Config, error) {
	var cfg Config
	text, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	meta, err := toml.Decode(text, &cfg)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, configFault(err))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("reading %s: unknown key %s%s", path, unknown[0], lineOf(path, unknown[0]))
	}
	if err := checkKinds(&meta); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &cfg, nil
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^([a-z]+-){2,3}[0-9]+$`)
	clusterPattern = regexp.MustCompile(`^cluster-[2-7a-zA-Z]{11,16}$`)
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
)

// complete fills in defaults and checks the values.
func (c *Config) complete() error {
	if !accountPattern.MatchString(c.Account) {
		return fmt.Errorf("account must be 12 digits, not %q", c.Account)
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if !slices.Contains(c.Regions, c.Region) {
		c.Regions = append([]string{c.Region}, c.Regions...)
	}
	for _, r := range c.Regions {
		if !regionPattern.MatchString(r) {
			return fmt.Errorf("region must be of the form us-east-1, not %q", r)
		}
	}
	if !filepath.IsAbs(c.StateDir) {
		return fmt.Errorf("state_dir must be an absolute path, not %q", c.StateDir)
	}
	if c.AuditDir == "" {
		c.AuditDir = filepath.Join(c.StateDir, "audit")
	}
	if !filepath.IsAbs(c.AuditDir) {
		return fmt.Errorf("audit_dir must be an absolute path, not %q", c.AuditDir)
	}
	if err := c.Store.complete(); err != nil {
		return err
	}
	if err := c.Socket.check(); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if c.IdentityPolicies != "" && !filepath.IsAbs(c.IdentityPolicies) {
		return fmt.Errorf("identity_policies must be an absolute path, not %q", c.IdentityPolicies)
	}
	for _, path := range c.AttestationRoots {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("attestation_roots must be absolute paths, not %q", path)
		}
	}
	if err := c.checkPrincipals(); err != nil {
		return err
	}
	if err := c.Names.complete(); err != nil {
		return err
	}
	if err := c.checkManagedKeys(); err != nil {
		return err
	}
	if err := errors.Join(c.Limits.check(), c.Audit.check()); err != nil {
		return err
	}
	if err := c.completeTokens(); err != nil {
		return err
	}
	return c.completePlugins()
}

func (c *Config) completePlugins() error {
	if c.PluginDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the plugins: %w", err)
		}
		c.PluginDir = filepath.Dir(exe)
	}
	if len(c.Plugins) == 0 {
		c.Plugins = []Plugin{{Name: "symmetric"}, {Name: "asymmetric"}, {Name: "hmac"}}
	}
	seen := map[string]bool{}
	for i := range c.Plugins {
		p := &c.Plugins[i]
		if !namePattern.MatchString(p.Name) || seen[p.Name] {
			return fmt.Errorf("plugin name must be unique, of lower-case letters, digits and dashes, not %q", p.Name)
		}
		seen[p.Name] = true
		if p.Path == "" {
			p.Path = filepath.Join(c.PluginDir, "cmkd-"+p.Name)
		}
	}
	return nil
}
