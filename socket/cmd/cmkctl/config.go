package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/BurntSushi/toml"

	"cmkd/socket/cmd/cmkctl/internal/bridge"
)

// daemonConfig is what cmkctl writes of the daemon's configuration file.
type daemonConfig struct {
	Account           string            `toml:"account"`
	Region            string            `toml:"region"`
	Regions           []string          `toml:"regions"`
	StateDir          string            `toml:"state_dir"`
	PlaintextDataKeys bool              `toml:"plaintext_data_keys"`
	IdentityPolicies  string            `toml:"identity_policies,omitempty"`
	Socket            socketConfig      `toml:"socket"`
	Admins            adminConfig       `toml:"admins"`
	AccessKeys        []accessKeyConfig `toml:"access_key,omitempty"`
	Tokens            []tokenConfig     `toml:"token"`
}

type accessKeyConfig struct {
	ID         string `toml:"id"`
	SecretFile string `toml:"secret_file"`
	Principal  string `toml:"principal"`
}

type socketConfig struct {
	Path  string `toml:"path"`
	Mode  string `toml:"mode"`
	Group string `toml:"group"`
}

type adminConfig struct {
	Users  []string `toml:"users"`
	Groups []string `toml:"groups"`
}

type tokenConfig struct {
	Name    string            `toml:"name"`
	Module  string            `toml:"module"`
	Label   string            `toml:"label,omitempty"`
	Serial  string            `toml:"serial,omitempty"`
	PINFile string            `toml:"pin_file"`
	Env     map[string]string `toml:"env,omitempty"`
	Sandbox *sandboxConfig    `toml:"sandbox,omitempty"`
}

// sandboxConfig is what the module may reach beside the usual.
type sandboxConfig struct {
	Off      bool     `toml:"off,omitempty"`
	Network  bool     `toml:"network,omitempty"`
	Readable []string `toml:"readable,omitempty"`
	Writable []string `toml:"writable,omitempty"`
}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^([a-z]+-){2,3}[0-9]+$`)
)

// check finds what the daemon would refuse, before anything is made for it.
func (c *daemonConfig) check() error {
	if !accountPattern.MatchString(c.Account) {
		return fmt.Errorf("account %q: want 12 digits", c.Account)
	}
	if len(c.Regions) == 0 {
		return errors.New("no Region")
	}
	for _, r := range c.Regions {
		if !regionPattern.MatchString(r) {
			return fmt.Errorf("region %q: want the form us-east-1", r)
		}
	}
	if n := len(c.Socket.Path); n > 107 {
		return fmt.Errorf("socket path %q has %d bytes, the system allows 107 (unix(7))", c.Socket.Path, n)
	}
	return nil
}

const configHeader = `# Configuration of cmkd, made by cmkctl. config.example.toml in the
# documentation shows every key.

`

func (c *daemonConfig) write(w io.Writer) error {
	if _, err := io.WriteString(w, configHeader); err != nil {
		return err
	}
	enc := toml.NewEncoder(w)
	enc.Indent = ""
	return enc.Encode(c)
}

// create writes the file, which must not exist.
func (c *daemonConfig) create(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(c.write(f), f.Sync(), f.Close())
}

// blank is a configuration with nothing but comments, as the package installs it.
type blank struct {
	text []byte
	mode fs.FileMode
}

// blankConfig is the configuration that is to be replaced, nil if there is none. One
// that says anything is never overwritten.
func blankConfig(path string) (*blank, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is nothing to be replaced
	}
	if err != nil {
		return nil, err
	}
	taken := fmt.Errorf("%s exists; a configuration is never overwritten. If no daemon uses it, since an init was interrupted, go on with cmkd --config %s --init, or remove it and what is beside it",
		path, bridge.ShellQuote(path))
	if !info.Mode().IsRegular() {
		return nil, taken
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", taken, err)
	}
	said := map[string]any{}
	if _, err := toml.Decode(string(text), &said); err != nil || len(said) > 0 || len(text) == 0 {
		return nil, taken
	}
	return &blank{text, info.Mode().Perm()}, nil
}

// putBack writes the blank configuration again, if there was one.
func (b *blank) putBack(path string) error {
	if b == nil {
		return nil
	}
	return os.WriteFile(path, b.text, b.mode)
}

// readConfig reads a file that cmkctl wrote before, nil if there is none.
func readConfig(path string) (*daemonConfig, error) {
	var c daemonConfig
	_, err := toml.DecodeFile(path, &c)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no file means a fresh start
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &c, nil
}

// layout names the files that cmkctl keeps in a folder for the daemon.
type layout struct{ dir string }

func (l layout) config() string  { return filepath.Join(l.dir, "config.toml") }
func (l layout) socket() string  { return filepath.Join(l.dir, "cmkd.sock") }
func (l layout) state() string   { return filepath.Join(l.dir, "state") }
func (l layout) log() string     { return filepath.Join(l.dir, "cmkd.log") }
func (l layout) tokens() string  { return filepath.Join(l.dir, "tokens") }
func (l layout) softhsm() string { return filepath.Join(l.dir, "softhsm2.conf") }
func (l layout) pin() string     { return filepath.Join(l.dir, "pin") }
func (l layout) soPIN() string   { return filepath.Join(l.dir, "so-pin") }

// softHSMFiles are what makeSoftHSMToken makes.
func (l layout) softHSMFiles() []string {
	return []string{l.tokens(), l.softhsm(), l.pin(), l.soPIN()}
}

// profiles is the file of the credentials of dev's principals, and secret the
// file of an access key's secret.
func (l layout) profiles() string        { return filepath.Join(l.dir, "aws-credentials") }
func (l layout) secret(id string) string { return filepath.Join(l.dir, "secret-"+id) }

// makeLayout makes the folder, closed to others.
func makeLayout(dir string) (layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return layout{}, err
	}
	return layout{dir: dir}, nil
}
