package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"time"

	"cmkd/daemon/trustedfile"
)

// CheckFiles reads the files that the configuration names, as a start does, but for what
// identities are made of. The error joins all that is wrong; warnings are of what a start
// takes.
func (cfg *Config) CheckFiles() (warnings []string, err error) {
	_, err = cfg.Attestations()
	errs := []error{err, cfg.Socket.checkGroup(), cfg.CheckTrusted()}
	for _, t := range cfg.Parts() {
		warning, err := t.CheckFiles()
		if warning != "" {
			warnings = append(warnings, "token "+t.Title()+": "+warning)
		}
		errs = append(errs, err)
	}
	shipWarnings, err := cfg.Audit.Ship.look(time.Now())
	warnings, errs = append(warnings, shipWarnings...), append(errs, err)
	if cfg.Store.secure() {
		_, err = cfg.Store.TLS()
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

// CheckFiles refuses a token whose PIN file or module cannot be read.
func (c *Part) CheckFiles() (warning string, err error) {
	warning, err = CheckPIN(c.PINFile)
	var errs []error
	for _, err := range []error{err, checkModule(c.Module)} {
		if err != nil {
			errs = append(errs, fmt.Errorf("token %s: %w", c.Title(), err))
		}
	}
	return warning, errors.Join(errs...)
}

// CheckPIN refuses a PIN file with nothing in it, and warns of one that every user
// can read. What systemd passes is its business.
func CheckPIN(name string) (warning string, err error) {
	path, err := trustedfile.SecretPath(name)
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	f, info, err := trustedfile.OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	if !trustedfile.IsCredential(path) {
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

// check looks at the executable and its checksum.
func (p *Plugin) check() error {
	if err := trustedfile.CheckFile(p.Path, true); err != nil {
		return err
	}
	want, err := hex.DecodeString(p.SHA256)
	if err != nil || len(want) != 0 && len(want) != sha256.Size {
		return fmt.Errorf("sha256 must be %d hexadecimal digits", 2*sha256.Size)
	}
	if len(want) == 0 {
		return nil
	}
	f, _, err := trustedfile.OpenRegular(p.Path)
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
func (s *Socket) checkGroup() error {
	if _, err := strconv.ParseUint(s.Group, 10, 32); s.Group == "" || err == nil {
		return nil
	}
	if _, err := user.LookupGroup(s.Group); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	return nil
}
