package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"cmkd/daemon/trustedfile"
)

// Place tells where the database is.
func (c *Store) Place() string {
	if c.Engine == engineSQLite {
		return engineSQLite
	}
	return fmt.Sprint(slices.Sorted(slices.Values(c.Endpoints)), c.Prefix)
}

// Engines of the store.
const (
	engineSQLite = "sqlite"
	EngineEtcd   = "etcd"
)

// Store says where the database is.
type Store struct {
	// Engine is "sqlite", a file in StateDir, or "etcd". Optional, "sqlite". What follows
	// is for etcd.
	Engine string `toml:"engine"`
	// Endpoints are the URLs of etcd's servers: https, or http on this machine. Required.
	Endpoints []string `toml:"endpoints"`
	// Prefix of all keys in etcd, which begins and ends with a slash. Optional, "/cmkd/".
	Prefix string `toml:"prefix"`
	// Node is the name of this daemon among those that share the prefix. Required.
	Node string `toml:"node"`
	// CAFile has the certificates of authorities that the servers' may be of, in PEM.
	// Optional, the system's.
	CAFile string `toml:"ca_file"`
	// CertFile and KeyFile are the daemon's own certificate and its key, in PEM. KeyFile
	// may be the name of a systemd credential. Required with https.
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
	// MaxStaleness is how long calls are answered while etcd does not answer, such as
	// "5s". Optional, 5 s; at least 1 s and at most a minute.
	MaxStaleness time.Duration `toml:"max_staleness"`
}

var prefixPattern = regexp.MustCompile(`^(/[a-zA-Z0-9._-]+)+/$`)

// complete fills in defaults and checks the values.
func (c *Store) complete() error {
	switch c.Engine {
	case "", engineSQLite:
		c.Engine = engineSQLite
		if len(c.Endpoints) > 0 || c.Prefix != "" || c.Node != "" || c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" || c.MaxStaleness != 0 {
			return errors.New("store: what is configured is for engine = \"etcd\"")
		}
		return nil
	case EngineEtcd:
	default:
		return fmt.Errorf("store: engine must be \"sqlite\" or \"etcd\", not %q", c.Engine)
	}
	if c.Prefix == "" {
		c.Prefix = "/cmkd/"
	}
	if c.MaxStaleness == 0 {
		c.MaxStaleness = 5 * time.Second
	}
	switch {
	case len(c.Endpoints) == 0:
		return errors.New("store: endpoints must name the servers of etcd, as in [\"https://etcd1.example.com:2379\"]")
	case !prefixPattern.MatchString(c.Prefix):
		return fmt.Errorf("store: prefix must be like /cmkd/, with letters, digits, dots, dashes and underscores, not %q", c.Prefix)
	case !namePattern.MatchString(c.Node):
		return fmt.Errorf("store: node must be lower-case letters, digits and dashes, not %q", c.Node)
	case c.MaxStaleness < time.Second || c.MaxStaleness > time.Minute:
		return fmt.Errorf("store: max_staleness must be from 1s to 1m, not %v", c.MaxStaleness)
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("store: cert_file and key_file go together")
	case c.KeyFile != "" && !filepath.IsAbs(c.KeyFile) && !trustedfile.IsFileName(c.KeyFile):
		return fmt.Errorf("store: key_file must be an absolute path or the name of a systemd credential, not %q", c.KeyFile)
	}
	for _, file := range []string{c.CAFile, c.CertFile} {
		if file != "" && !filepath.IsAbs(file) {
			return fmt.Errorf("store: %q must be an absolute path", file)
		}
	}
	for _, endpoint := range c.Endpoints {
		if err := c.checkEndpoint(endpoint); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if c.secure() != (c.CertFile != "") {
		return errors.New("store: https needs cert_file and key_file, which authenticate the daemon to etcd; http does not use them")
	}
	return nil
}

// checkEndpoint refuses what is not the URL of a server. In the clear, whoever is on the
// way could take changes back.
func (c *Store) checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Port() == "" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("endpoints must be like https://etcd1.example.com:2379, not %q", endpoint)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("endpoints: http is for servers on this machine, %q must be https", endpoint)
	}
	if (u.Scheme == "https") != c.secure() {
		return errors.New("endpoints must be all https or all http")
	}
	return nil
}

// secure reports whether the servers are asked over TLS.
func (c *Store) secure() bool {
	return slices.ContainsFunc(c.Endpoints, func(e string) bool { return len(e) > 6 && e[:6] == "https:" })
}

// checkStore looks at what decides whom the daemon asks for its rows.
func (t *distrust) checkStore(c *Store) {
	for _, file := range []string{c.CAFile, c.CertFile} {
		if file != "" {
			t.check("store", file)
		}
	}
	if filepath.IsAbs(c.KeyFile) && !trustedfile.IsCredential(c.KeyFile) {
		t.check("store: key_file", c.KeyFile)
	}
}

// TLS reads the certificates.
func (c *Store) TLS() (*tls.Config, error) {
	if !c.secure() {
		return nil, nil //nolint:nilnil // in the clear
	}
	config, err := clientTLS(c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return config, nil
}
