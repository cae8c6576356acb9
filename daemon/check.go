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

	"cmkd/daemon/policy"
)

// Check reads what a start reads, but for the token and the database: the
// configuration, users, access keys, identity policies, roots, PIN files, modules
// and plugins. The error joins all that is wrong; warnings are of what a start
// takes.
func Check(path string) (warnings []string, err error) {
	cfg, err := LoadConfig(path)
	if err != nil {
		return nil, err
	}
	var errs []error
	ids, err := newIdentities(cfg)
	if err == nil {
		warnings = ids.warnings()
	}
	errs = append(errs, err)
	_, err = cfg.attestations()
	errs = append(errs, err, cfg.Socket.checkGroup())
	for _, t := range cfg.Tokens {
		warning, err := checkPIN(t.PINFile)
		if warning != "" {
			warnings = append(warnings, "token "+t.Name+": "+warning)
		}
		for _, err := range []error{err, checkFile(t.Module, 0)} {
			if err != nil {
				errs = append(errs, fmt.Errorf("token %s: %w", t.Name, err))
			}
		}
	}
	for _, p := range cfg.Plugins {
		if err := p.check(); err != nil {
			errs = append(errs, fmt.Errorf("plugin %s: %w", p.Name, err))
		}
	}
	return warnings, errors.Join(errs...)
}

// checkFile refuses what is not a regular file with these bits of a mode.
func checkFile(path string, bits os.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&bits != bits:
		return fmt.Errorf("%s has the mode %#o", path, info.Mode().Perm())
	}
	return nil
}

// errWritable: others can change a file that must be the daemon's alone.
var errWritable = errors.New("others can change it")

// checkPIN refuses a PIN file that others can change ([errWritable]) or with
// nothing in it, and warns of one that every user can read. What systemd passes
// is its business.
func checkPIN(name string) (warning string, err error) {
	path, err := secretPath(name)
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	if err := checkFile(path, 0); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir == "" || filepath.Dir(path) != dir {
		switch mode := info.Mode().Perm(); {
		case mode&0o022 != 0:
			return "", fmt.Errorf("the PIN file %s has the mode %#o: %w; chmod 0400", path, mode, errWritable)
		case mode&0o004 != 0:
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

// checkPINs refuses, of what [Check] does, a PIN that others can change, and
// logs what it warns of. A token of which the PIN is missing may come later.
func checkPINs(cfg *Config, log *slog.Logger) error {
	for _, t := range cfg.Tokens {
		warning, err := checkPIN(t.PINFile)
		if errors.Is(err, errWritable) {
			return fmt.Errorf("token %s: %w", t.Name, err)
		}
		if warning != "" {
			log.Warn(warning, "token", t.Name)
		}
	}
	return nil
}

// check looks at the executable and its checksum.
func (p *PluginConfig) check() error {
	if err := checkFile(p.Path, 0o100); err != nil {
		return err
	}
	want, err := hex.DecodeString(p.SHA256)
	if err != nil || len(want) != 0 && len(want) != sha256.Size {
		return fmt.Errorf("sha256 must be %d hexadecimal digits", 2*sha256.Size)
	}
	if len(want) == 0 {
		return nil
	}
	f, err := os.Open(p.Path)
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

// warnings are what an administrator should know of the identity policies: those
// of nobody, and condition keys that do not exist.
func (ids *identities) warnings() []string {
	list := []string{}
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
