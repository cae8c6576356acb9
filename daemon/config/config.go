// Package config is the configuration: read, checked, and handed to each part of the daemon
// in its own form.
package config

import (
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"cmkd/socket"
)

// Config is the configuration file, TOML. Unknown keys are errors.
// config.example.toml shows every key with its default.
type Config struct {
	// Account is the 12-digit account number in ARNs. Required.
	Account string `toml:"account"`
	// Region is the Region of calls that name none, and the default home of
	// keys. Optional, "us-east-1".
	Region string `toml:"region"`
	// Regions are all the Regions served; Region is always among them.
	// Optional.
	Regions []string `toml:"regions"`
	// StateDir holds the database of SQLite, the audit trail and the plugins' sockets.
	// The daemon makes it with mode 0700. Required.
	StateDir string `toml:"state_dir"`
	// AuditDir holds the audit trail. Optional, StateDir/audit.
	AuditDir string `toml:"audit_dir"`
	// PluginDir is where plugins without a path are looked for. Optional, the
	// folder of the cmkd executable.
	PluginDir string `toml:"plugin_dir"`
	// PlaintextDataKeys lets data keys leave in the clear, as AWS KMS does.
	// Optional, false.
	PlaintextDataKeys bool `toml:"plaintext_data_keys"`
	// AttestationRoots are PEM files of the certificates that attestation
	// documents of recipients must lead to. Optional; none refuses them.
	AttestationRoots []string `toml:"attestation_roots"`
	// TokenOnlyImport refuses ImportKeyMaterial where the token lacks a
	// mechanism, so that the material would pass through a plugin's memory.
	// Optional, false.
	TokenOnlyImport bool `toml:"token_only_import"`
	// IdentityPolicies is the folder of the identity policies, as
	// docs/authorisation.md draws it; read again on SIGHUP. Optional, none.
	IdentityPolicies string `toml:"identity_policies"`

	// Store says where the database is.
	Store  Store  `toml:"store"`
	Socket Socket `toml:"socket"`
	Admins Admins `toml:"admins"`
	// Auditors see keys, policies and grants, ask who may do what, and have the audit
	// trail verified. They change nothing and use no key.
	Auditors Duty `toml:"auditors"`
	// Operators reload and recover. They use no key.
	Operators Duty `toml:"operators"`
	// Monitors read status and metrics, as auditors and operators may.
	Monitors   Duty       `toml:"monitors"`
	Principals Principals `toml:"principals"`
	Names      Names      `toml:"names"`
	// AccessKeys are fixed credentials, which requests may be signed with.
	AccessKeys []AccessKey `toml:"access_key"`
	// Tokens: the first holds the keys of no custom key store.
	Tokens []Token `toml:"token"`
	// ManagedKeys are keys that the daemon manages for its users.
	ManagedKeys []ManagedKey `toml:"managed_key"`
	Limits      Limits       `toml:"limits"`
	// Audit bounds the audit trail.
	Audit Audit `toml:"audit"`
	// Plugins replace the default three: symmetric, asymmetric, hmac.
	Plugins []Plugin `toml:"plugin"`
}

// Socket is the socket that clients connect to.
type Socket struct {
	// Path of the socket. Optional under systemd socket activation.
	Path string `toml:"path"`
	// Mode of the socket file, octal. Optional, "0660".
	Mode string `toml:"mode"`
	// Group of the socket file. Optional, the daemon's own.
	Group string `toml:"group"`
	// MaxConnections at one time. Beyond it, idle ones are closed to make room.
	// Optional, 4096.
	MaxConnections int `toml:"max_connections"`
	// MaxConnectionsPerUser at one time. Optional, half of MaxConnections.
	MaxConnectionsPerUser int `toml:"max_connections_per_user"`
	// MaxCalls in flight. Optional, 1024.
	MaxCalls int `toml:"max_calls"`
	// MaxCallsPerUser in flight. Optional, half of MaxCalls.
	MaxCallsPerUser int `toml:"max_calls_per_user"`
	// Reserve is how many more connections, and how many more calls, there may be
	// of root, the admins and the daemon's own user. Optional, 64.
	Reserve int `toml:"reserve"`
	// RatePerUser is calls per second that a user may start. Optional, 0: any
	// number.
	RatePerUser float64 `toml:"rate_per_user"`
}

// Admins names who may do everything, beside uid 0 and the daemon's own
// user where no rule of Principals makes them somebody else.
type Admins struct {
	// Users are names or uids.
	Users []string `toml:"users"`
	// Groups are names or gids.
	Groups []string `toml:"groups"`
}

// Principals says what callers are to policies, where that is not
// arn:aws:iam::ACCOUNT:user/NAME. It is read again on SIGHUP.
type Principals struct {
	// Known are ARNs of users, groups and roles that policies and grants may
	// name although nothing else in this configuration or the system's user
	// database does. Optional.
	Known []string `toml:"known"`
	// Map are tried in order: the first that fits a caller counts. Optional.
	Map []Map `toml:"map"`
}

// Map gives callers another ARN. At least one of Unit, User and Group is
// required, and a caller must fit all that are given.
type Map struct {
	// Unit is the systemd service or scope that the caller runs in, such as
	// "web.service"; "web@.service" stands for every instance.
	Unit string `toml:"unit"`
	// User is a name or a uid.
	User string `toml:"user"`
	// Group is a name or a gid.
	Group string `toml:"group"`
	// ARN of a user or role of the account; with Group alone it may be that of
	// a group, which then is the ARN of this group. Required.
	ARN string `toml:"arn"`
	// Tags are the principal's: aws:PrincipalTag/KEY. Optional.
	Tags map[string]string `toml:"tags"`
}

// AccessKey is a fixed credential: whoever signs with it is the
// principal, whatever the kernel says. It is read again on SIGHUP.
type AccessKey struct {
	// ID is the access key ID, 16 to 128 letters and digits. Required.
	ID string `toml:"id"`
	// SecretFile holds the secret access key. An absolute path is of a file
	// that only its owner, root or the daemon's user, can read; another one is
	// the name of a systemd credential. Required.
	SecretFile string `toml:"secret_file"`
	// Principal is the ARN of a user or role of the account. Required.
	Principal string `toml:"principal"`
}

// ManagedKeyConfig is a symmetric key that is made at its first use, in each
// Region, and rotated every year. Clients use it and cannot manage it: AWS calls
// it an AWS managed key.
type ManagedKey struct {
	// Alias by which clients know it, "alias/aws/NAME". Required.
	Alias string `toml:"alias"`
	// Description of the key. Optional.
	Description string `toml:"description"`
	// Users are the ARNs of who may use it, or "*" for everyone on the socket.
	// Required.
	Users []string `toml:"users"`
}

// Limits are the quotas of the account in each Region.
type Limits struct {
	// Keys, of every state. Optional, 100000.
	Keys int `toml:"keys"`
	// AliasesPerKey. Optional, 50.
	AliasesPerKey int `toml:"aliases_per_key"`
	// GrantsPerKey. Optional, 50000.
	GrantsPerKey int `toml:"grants_per_key"`
	// RequestRates are calls per second of all users together, by the name of
	// the operation; "*" is for each operation without a rate of its own.
	// Optional, any number.
	RequestRates map[string]float64 `toml:"request_rates"`
}

// Plugin is one kind of backend. Each token gets a process of it.
type Plugin struct {
	// Name for logs and status. Required.
	Name string `toml:"name"`
	// Path of the executable. Optional, PluginDir/cmkd-NAME.
	Path string `toml:"path"`
	// SHA256 of the executable, hexadecimal. What is executed is a copy in memory
	// that was checked. Optional, unchecked.
	SHA256 string `toml:"sha256"`
}

// mode parses the file mode.
func (s *Socket) mode() (fs.FileMode, error) {
	if s.Mode == "" {
		return 0o660, nil
	}
	m, err := strconv.ParseUint(strings.TrimPrefix(s.Mode, "0o"), 8, 9)
	if err != nil {
		return 0, fmt.Errorf("mode must be octal, such as 0660, not %q", s.Mode)
	}
	return fs.FileMode(m), nil
}

// check refuses what [socket.Listen] would, in the words of the file.
func (s *Socket) check() error {
	mode, err := s.mode()
	switch {
	case err != nil:
		return err
	case mode&0o200 == 0:
		return fmt.Errorf("mode must let at least the owner connect, such as 0660, not %q", s.Mode)
	case s.Path != "" && !filepath.IsAbs(s.Path):
		return fmt.Errorf("path must be an absolute path, not %q", s.Path)
	}
	for _, limit := range []struct {
		key   string
		value float64
	}{
		{"max_connections", float64(s.MaxConnections)},
		{"max_connections_per_user", float64(s.MaxConnectionsPerUser)},
		{"max_calls", float64(s.MaxCalls)},
		{"max_calls_per_user", float64(s.MaxCallsPerUser)},
		{"reserve", float64(s.Reserve)},
		{"rate_per_user", s.RatePerUser},
	} {
		if math.IsNaN(limit.value) || limit.value < 0 {
			return fmt.Errorf("%s must be 0 or more, not %v", limit.key, limit.value)
		}
	}
	return nil
}

// Config is the same for package socket.
func (s *Socket) Config() (socket.Config, error) {
	mode, err := s.mode()
	return socket.Config{
		Path: s.Path, Mode: mode, Group: s.Group,
		Limits: socket.Limits{
			Connections: s.MaxConnections, ConnectionsPerUID: s.MaxConnectionsPerUser,
			Calls: s.MaxCalls, CallsPerUID: s.MaxCallsPerUser, Reserve: s.Reserve, RatePerUID: s.RatePerUser,
		},
	}, err
}
