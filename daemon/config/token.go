package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"cmkd/daemon/trustedfile"
	"cmkd/plugins"
)

// Token is a PKCS#11 token. It is chosen by Label or Serial, never by
// slot number. The first must be there when the daemon starts; further ones
// may come and go.
type Token struct {
	// Name by which keys and logs know the token. Required, never to change.
	Name string `toml:"name"`
	// Module is the path of the PKCS#11 library. Required.
	Module string `toml:"module"`
	// Label of the token. One of Label and Serial is required.
	Label string `toml:"label"`
	// Serial number of the token.
	Serial string `toml:"serial"`
	// PINFile holds the PIN of the user, readable by the daemon alone: an
	// absolute path, or the name of a systemd credential.
	// AWS CloudHSM: user:password. Required.
	PINFile string `toml:"pin_file"`
	// ClusterID is the CloudHsmClusterId by which clients make a custom key
	// store of the token: "cluster-" and 11 to 16 letters and digits 2 to 7.
	// Optional; the first token has none, a further one serves nothing without.
	ClusterID string `toml:"cluster_id"`
	// SigningKeys lets the custom key store of the token hold signing keys, too,
	// for tokens that hold nothing else, such as TPMs. At AWS, such a store holds
	// symmetric encryption keys only. Optional, false.
	SigningKeys bool `toml:"signing_keys"`
	// MaxSessions bounds the sessions of each plugin, which needs 4. Optional,
	// 16; the token may allow fewer.
	MaxSessions int `toml:"max_sessions"`
	// UnavailableAfter is how long a token that has gone away is expected back, such
	// as "1m": calls fail with KeyUnavailableException until then, which clients
	// repeat, and the states of its keys become Unavailable after it. Optional, 30 s.
	UnavailableAfter time.Duration `toml:"unavailable_after"`
	// Workers is how many calls each plugin makes at a time, beside those that
	// make and destroy keys. Optional, 8; an HSM that is far away gains by more.
	Workers int `toml:"workers"`
	// Env are further environment variables for the module. It may read the
	// files and folders that they name.
	Env map[string]string `toml:"env"`
	// Sandbox says what else the module may reach. Optional.
	Sandbox Sandbox `toml:"sandbox"`
	// Members are tokens that hold the same keys, clones of each other by the vendor's
	// means: calls go to all of them. What a member does not say it has from here.
	// Optional, 2 to 16.
	Members []Member `toml:"member"`
	// Creation says when a key that was made or imported is answered: "all", when every
	// member that is there shows it, or "first", when the one has it that made it. Optional,
	// "all". Without Members it says nothing.
	Creation string `toml:"creation"`
}

// Member is one of several tokens that hold the same keys.
type Member struct {
	// Name by which logs and status know the member. Required.
	Name string `toml:"name"`
	// Module is the path of the PKCS#11 library. Optional, that of the token.
	Module string `toml:"module"`
	// Label or Serial chooses the member. Optional, as the token says.
	Label  string `toml:"label"`
	Serial string `toml:"serial"`
	// PINFile is as that of the token. Optional, that of the token.
	PINFile string `toml:"pin_file"`
	// Env are further environment variables for the module, beside those of the
	// token. Optional.
	Env map[string]string `toml:"env"`
	// Sandbox is instead of that of the token. Optional.
	Sandbox *Sandbox `toml:"sandbox"`
}

// ShownByAll reports whether a new key is to be shown by all members.
func (t *Token) ShownByAll() bool { return t.Creation != creationFirst }

// Values of Token.Creation.
const (
	creationAll   = "all"
	creationFirst = "first"
)

// Part is a member of a token, with what it has from the token; or a token without members.
type Part struct {
	Token
	Member string // its name, "" of a token without members
}

// Parts are the members of the token, or the token alone.
func (t *Token) Parts() []Part {
	if len(t.Members) == 0 {
		return []Part{{Token: *t}}
	}
	parts := make([]Part, len(t.Members))
	for i, m := range t.Members {
		part := Part{*t, m.Name}
		part.Members = nil
		part.Module, part.PINFile = cmp.Or(m.Module, t.Module), cmp.Or(m.PINFile, t.PINFile)
		if m.Label != "" || m.Serial != "" {
			part.Label, part.Serial = m.Label, m.Serial
		}
		part.Env = maps.Clone(t.Env)
		if part.Env == nil {
			part.Env = map[string]string{}
		}
		maps.Copy(part.Env, m.Env)
		if m.Sandbox != nil {
			part.Sandbox = *m.Sandbox
		}
		parts[i] = part
	}
	return parts
}

// Title names the token, or the member, in errors and logs.
func (t *Part) Title() string { return Title(t.Name, t.Member) }

func Title(token, member string) string {
	if member == "" {
		return token
	}
	return token + "/" + member
}

// Parts are those of all tokens.
func (c *Config) Parts() []Part {
	var parts []Part
	for i := range c.Tokens {
		parts = append(parts, c.Tokens[i].Parts()...)
	}
	return parts
}

// Sandbox widens the walls around a PKCS#11 module (Landlock and seccomp).
type Sandbox struct {
	// Off: the module may do whatever the daemon's user may. Optional, false.
	Off bool `toml:"off"`
	// Readable are absolute paths, folders with all that is in them, beside the
	// system's libraries, the module, its PIN file and what Env names. Optional.
	Readable []string `toml:"readable"`
	// Writable are absolute paths that it may read and write. Optional; the
	// folder of tokens in SoftHSM2's configuration is one in any case.
	Writable []string `toml:"writable"`
	// Network allows sockets, Unix sockets included: a network HSM, a daemon of
	// the vendor's. Optional, false.
	Network bool `toml:"network"`
}

func (c *Config) completeTokens() error {
	if len(c.Tokens) == 0 {
		return errors.New("no [[token]]: at least one is needed")
	}
	seen := map[string]bool{}
	for i, t := range c.Tokens {
		switch {
		case !namePattern.MatchString(t.Name):
			return fmt.Errorf("token name must be lower-case letters, digits and dashes, not %q", t.Name)
		case seen[t.Name]:
			return fmt.Errorf("two tokens are named %q", t.Name)
		case t.MaxSessions != 0 && t.MaxSessions < 4:
			return fmt.Errorf("token %s: max_sessions must be at least 4, not %d", t.Name, t.MaxSessions)
		case t.Workers < 0:
			return fmt.Errorf("token %s: workers must be at least 1, not %d", t.Name, t.Workers)
		case t.UnavailableAfter < 0:
			return fmt.Errorf("token %s: unavailable_after must not be negative, it is %v", t.Name, t.UnavailableAfter)
		case i == 0 && t.ClusterID != "":
			return fmt.Errorf("token %s: the first token holds the keys of no custom key store and has no cluster_id", t.Name)
		case t.ClusterID != "" && !clusterPattern.MatchString(t.ClusterID):
			return fmt.Errorf("token %s: cluster_id must be \"cluster-\" and 11 to 16 letters and digits 2 to 7, not %q", t.Name, t.ClusterID)
		case t.SigningKeys && t.ClusterID == "":
			return fmt.Errorf("token %s: signing_keys is for a custom key store: set cluster_id, too", t.Name)
		case t.ClusterID != "" && seen[t.ClusterID]:
			return fmt.Errorf("two tokens have the cluster_id %q", t.ClusterID)
		}
		seen[t.Name], seen[t.ClusterID] = true, true
		if err := c.Tokens[i].completeMembers(); err != nil {
			return err
		}
		for _, part := range c.Tokens[i].Parts() {
			if err := part.checkPart(); err != nil {
				return err
			}
		}
	}
	return nil
}

// completeMembers fills in Creation, and checks what is about the members together.
func (t *Token) completeMembers() error {
	t.Creation = cmp.Or(t.Creation, creationAll)
	switch n := len(t.Members); {
	case t.Creation != creationAll && t.Creation != creationFirst:
		return fmt.Errorf("token %s: creation must be \"all\" or \"first\", not %q", t.Name, t.Creation)
	case n == 1 || n > plugins.MaxMembers:
		return fmt.Errorf("token %s: give 2 to %d members, or none, not %d", t.Name, plugins.MaxMembers, n)
	}
	seen := map[string]bool{}
	for _, m := range t.Members {
		if !namePattern.MatchString(m.Name) || seen[m.Name] {
			return fmt.Errorf("token %s: the name of a member must be unique, of lower-case letters, digits and dashes, not %q", t.Name, m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}

// checkPart checks what a module needs, of a token without members or of a member.
func (t *Part) checkPart() error {
	switch {
	case !filepath.IsAbs(t.Module):
		return fmt.Errorf("token %s: module must be an absolute path, not %q", t.Title(), t.Module)
	case (t.Label == "") == (t.Serial == ""):
		return fmt.Errorf("token %s: give label or serial, one of them", t.Title())
	case !filepath.IsAbs(t.PINFile) && !trustedfile.IsFileName(t.PINFile):
		return fmt.Errorf("token %s: pin_file must be an absolute path or the name of a systemd credential, not %q", t.Title(), t.PINFile)
	case slices.ContainsFunc(slices.Concat(t.Sandbox.Readable, t.Sandbox.Writable), func(p string) bool { return !filepath.IsAbs(p) }):
		return fmt.Errorf("token %s: sandbox: paths must be absolute", t.Title())
	}
	return nil
}

// Clusters are the tokens by their cluster IDs.
func (c *Config) Clusters() map[string]string {
	found := map[string]string{}
	for _, t := range c.Tokens {
		if t.ClusterID != "" {
			found[t.ClusterID] = t.Name
		}
	}
	return found
}

// SigningTokens are the further tokens that may hold signing keys.
func (c *Config) SigningTokens() []string {
	var found []string
	for _, t := range c.Tokens {
		if t.SigningKeys {
			found = append(found, t.Name)
		}
	}
	return found
}
