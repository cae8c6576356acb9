package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// profile is a principal to call as, with an access key that the daemon knows
// it by.
type profile struct {
	name string // the last part of the ARN, and its profile for AWS clients
	arn  string
	bridge.Credential
}

var (
	principalPattern = regexp.MustCompile(`^arn:aws:iam::([0-9]{12}):(?:user|role)/(?:[\w+=,.@-]+/)*([\w+=,.@-]{1,64})$`)
	shortPattern     = regexp.MustCompile(`^(?:user|role)/`)
)

// newProfile is the profile of an ARN, or of what follows the account in it.
func newProfile(account, principal string) (*profile, error) {
	arn := principal
	if shortPattern.MatchString(principal) {
		arn = "arn:aws:iam::" + account + ":" + principal
	}
	m := principalPattern.FindStringSubmatch(arn)
	if m == nil || m[1] != account {
		return nil, fmt.Errorf("principal %q: want role/NAME, user/NAME or an ARN arn:aws:iam::%s:role/NAME", principal, account)
	}
	return &profile{name: m[2], arn: arn}, nil
}

// profiles makes access keys for the principals of the flags that the
// configuration has none for, and returns all that it has. changed says that
// the configuration must be written.
func (f *devFlags) profiles(l layout, cfg *daemonConfig) (all []profile, changed bool, err error) {
	for _, principal := range f.principals {
		p, err := newProfile(cfg.Account, principal)
		if err != nil {
			return nil, false, err
		}
		if slices.ContainsFunc(cfg.AccessKeys, func(k accessKeyConfig) bool { return k.Principal == p.arn }) {
			continue
		}
		p.Credential = bridge.NewCredential()
		file := l.secret(p.ID)
		if err := os.WriteFile(file, []byte(p.Secret+"\n"), 0o400); err != nil {
			return nil, false, fmt.Errorf("writing the secret of an access key: %w", err)
		}
		cfg.AccessKeys = append(cfg.AccessKeys, accessKeyConfig{ID: p.ID, SecretFile: file, Principal: p.arn})
		changed = true
	}
	for _, k := range cfg.AccessKeys {
		p, err := newProfile(cfg.Account, k.Principal)
		if err != nil {
			return nil, false, err
		}
		if slices.ContainsFunc(all, func(other profile) bool { return other.name == p.name }) {
			return nil, false, fmt.Errorf("two principals are called %s: AWS clients could not tell their profiles apart", p.name)
		}
		p.ID = k.ID
		if p.Secret, err = bridge.ReadSecret(k.SecretFile); err != nil {
			return nil, false, fmt.Errorf("reading the secret of %s: %w", k.Principal, err)
		}
		all = append(all, *p)
	}
	return all, changed, nil
}

// identities puts what the flags say of principals and their policies into the
// configuration of the daemon.
func (f *devFlags) identities(l layout, cfg *daemonConfig) ([]profile, error) {
	all, changed, err := f.profiles(l, cfg)
	if err != nil {
		return nil, err
	}
	if f.policies != "" {
		dir, err := filepath.Abs(f.policies)
		if err != nil {
			return nil, err
		}
		changed = changed || cfg.IdentityPolicies != dir
		cfg.IdentityPolicies = dir
	}
	if changed {
		if err := cli.WriteFile(l.config(), cfg.write); err != nil {
			return nil, fmt.Errorf("writing the configuration: %w", err)
		}
	}
	return all, nil
}

// writeProfiles writes the file of credentials by which AWS clients know the
// profiles.
// https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
func writeProfiles(path string, all []profile) error {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "# %s\n[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n\n", p.arn, p.name, p.ID, p.Secret)
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

// explainProfiles says how to call as others than the account's root.
func explainProfiles(w io.Writer, all []profile) {
	for _, p := range all {
		fmt.Fprintf(w, "As %s: aws --profile %s …\n", p.arn, bridge.ShellQuote(p.name))
	}
	if len(all) > 0 {
		fmt.Fprintf(w, "Other programs: env -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY AWS_PROFILE=%s PROGRAM\n", bridge.ShellQuote(all[0].name))
	}
}
