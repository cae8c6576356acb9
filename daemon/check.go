package daemon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"cmkd/daemon/policy"
)

// Check reads what a start reads, but for the token and the database: the
// configuration, users, access keys, identity policies, roots, PIN files, modules,
// plugins, and what the audit trail is shipped with. The error joins all that is wrong; warnings are of what a start
// takes.
func Check(path string) (warnings []string, err error) {
	cfg, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	var errs []error
	ids, err := newIdentities(cfg, slog.New(slog.DiscardHandler), false)
	if err == nil {
		warnings = ids.warnings()
	}
	errs = append(errs, err)
	_, err = cfg.attestations()
	errs = append(errs, err, cfg.Socket.checkGroup(), cfg.checkTrusted())
	for _, t := range cfg.Tokens {
		warning, err := t.checkFiles()
		if warning != "" {
			warnings = append(warnings, "token "+t.Name+": "+warning)
		}
		errs = append(errs, err)
	}
	shipWarnings, err := cfg.Audit.Ship.look(time.Now())
	warnings, errs = append(warnings, shipWarnings...), append(errs, err)
	if cfg.Store.secure() {
		_, err = cfg.Store.tls()
		warning, err2 := checkCertificate(cfg.Store.CertFile, time.Now())
		if err2 != nil && err == nil {
			err = fmt.Errorf("store: %w", err2)
		}
		if warning != "" {
			warnings = append(warnings, "store: "+warning)
		}
		errs = append(errs, err)
	}
	for _, p := range cfg.Plugins {
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s: %w", p.Name, err))
		}
	}
	return warnings, errors.Join(errs...)
}

// checkFiles refuses a token whose PIN file or module cannot be read.
func (c *TokenConfig) checkFiles() (warning string, err error) {
	warning, err = checkPIN(c.PINFile)
	var errs []error
	for _, err := range []error{err, checkFile(c.Module, false)} {
		if err != nil {
			errs = append(errs, fmt.Errorf("token %s: %w", c.Name, err))
		}
	}
	return warning, errors.Join(errs...)
}

// checkFile refuses what is not a regular file or, if it is to be executable, not that.
func checkFile(path string, executable bool) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case executable && info.Mode().Perm()&0o100 == 0:
		return fmt.Errorf("%s has the mode %#o: run chmod a+x %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// checkPIN refuses a PIN file with nothing in it, and warns of one that every user
// can read. What systemd passes is its business.
func checkPIN(name string) (warning string, err error) {
	path, err := secretPath(name)
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	f, info, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	if !isCredential(path) {
		if mode := info.Mode().Perm(); mode&0o004 != 0 {
			warning = fmt.Sprintf("every user can read the PIN file %s: its mode is %#o, it should be 0400", path, mode)
		}
	}
	var first [1]byte
	if n, _ := f.Read(first[:]); n == 0 || first[0] == '\n' || first[0] == '\r' {
		return "", fmt.Errorf("the PIN file %s is empty", path)
	}
	clear(first[:])
	return warning, nil
}

// warnOfPINs logs what [checkPIN] warns of, and keeps it for the status. A token of
// which the PIN is missing may come later.
func (d *Daemon) warnOfPINs(cfg *Config) {
	var list []string
	for _, t := range cfg.Tokens {
		if warning, _ := checkPIN(t.PINFile); warning != "" {
			d.log.Warn(warning, "token", t.Name)
			list = append(list, "token "+t.Name+": "+warning)
		}
	}
	d.pins.Store(&list)
}

// warnings are what an administrator should know of the configuration in use.
func (d *Daemon) warnings() []string {
	list := d.identities.Load().warnings()
	if pins := d.pins.Load(); pins != nil {
		list = append(list, *pins...)
	}
	return list
}

// isCredential reports whether the path is of a file that systemd passes.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == dir
}

// check looks at the executable and its checksum.
func (p *PluginConfig) check() error {
	if err := checkFile(p.Path, true); err != nil {
		return err
	}
	want, err := hex.DecodeString(p.SHA256)
	if err != nil || len(want) != 0 && len(want) != sha256.Size {
		return fmt.Errorf("sha256 must be %d hexadecimal digits", 2*sha256.Size)
	}
	if len(want) == 0 {
		return nil
	}
	f, _, err := openRegular(p.Path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("reading %s: %w", p.Path, err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("%s has the SHA-256 %x, not %s", p.Path, got, p.SHA256)
	}
	return nil
}

// checkGroup looks the socket's group up.
func (s *SocketConfig) checkGroup() error {
	if _, err := strconv.ParseUint(s.Group, 10, 32); s.Group == "" || err == nil {
		return nil
	}
	if _, err := user.LookupGroup(s.Group); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	return nil
}

// warnings are what an administrator should know of names and identity policies: those
// of nobody, and condition keys that do not exist.
func (ids *identities) warnings() []string {
	list := []string{}
	if err := ids.names.Trouble(); err != nil {
		list = append(list, fmt.Sprintf("callers are refused whose names cannot be told: %v", err))
	}
	for owner, documents := range ids.policies {
		if !ids.somebody(owner) {
			list = append(list, fmt.Sprintf("the identity policies of %s are for nobody: no such %s", owner, filepath.Dir(owner)))
		}
		for _, d := range documents {
			list = append(list, unknownKeys(d)...)
		}
	}
	slices.Sort(list)
	return list
}

func unknownKeys(d *policy.Document) []string {
	var list []string
	for _, name := range d.UnknownKeys() {
		list = append(list, fmt.Sprintf("the identity policy %s has the condition key %s, which no request ever has: a Deny on it denies nothing", d.Name(), name))
	}
	return list
}
