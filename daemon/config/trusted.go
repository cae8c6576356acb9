package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"cmkd/daemon/trustedfile"
	"cmkd/plugins"
)

// CheckTrusted refuses a configuration whose files somebody but root and the daemon's
// user can change: the error joins all such. What is not there may come later. The
// configuration itself, identity policies and the secrets of access keys are looked
// at when they are read.
func (c *Config) CheckTrusted() error {
	var t distrust
	t.check("state_dir", c.StateDir)
	t.check("audit_dir", c.AuditDir)
	if c.Socket.Path != "" { // who can write the folder can put a socket of his own there
		t.checkShared("folder of the socket", filepath.Dir(c.Socket.Path))
	}
	for _, path := range c.AttestationRoots {
		t.check("attestation_roots", path)
	}
	for _, part := range c.Parts() {
		t.checkToken(&part)
	}
	t.checkShip(c.Audit.Ship)
	if c.Names.Source == system {
		t.check("names.getent", c.Names.Getent)
	}
	t.checkStore(&c.Store)
	for _, p := range c.Plugins {
		t.check("plugin "+p.Name, p.Path)
	}
	return errors.Join(t...)
}

// distrust is the errors of paths that are not to be trusted. What else is wrong with a
// path shows when it is used.
type distrust []error

func (t *distrust) add(what string, err error) {
	if _, untrusted := errors.AsType[*trustedfile.UntrustedError](err); untrusted {
		*t = append(*t, fmt.Errorf("%s: %w", what, err))
	}
}

func (t *distrust) check(what, path string) { t.add(what, trustedfile.Check(path, false)) }

// checkShared is check for what may be in a folder such as /tmp, or be a device.
func (t *distrust) checkShared(what, path string) { t.add(what, trustedfile.Check(path, true)) }

// checkToken looks at what the module reads: it runs, and has the PIN.
func (t *distrust) checkToken(c *Part) {
	name := "token " + c.Title() + ": "
	t.check(name+"module", c.Module)
	if filepath.IsAbs(c.PINFile) && !trustedfile.IsCredential(c.PINFile) {
		t.check(name+"pin_file", c.PINFile)
	}
	for _, variable := range slices.Sorted(maps.Keys(c.Env)) {
		for _, path := range pathsIn(c.Env[variable]) {
			t.checkShared(name+"env "+variable, path)
		}
	}
	for _, path := range c.Sandbox.Readable {
		t.checkShared(name+"sandbox.readable", path)
	}
	for _, path := range c.Sandbox.Writable {
		t.checkShared(name+"sandbox.writable", path)
	}
	conf, ok := c.Env["SOFTHSM2_CONF"]
	if !ok && strings.Contains(filepath.Base(c.Module), "softhsm") {
		conf = plugins.SoftHSMConf
	}
	if !filepath.IsAbs(conf) {
		return
	}
	text, err := trustedfile.Read(conf, maxConfig)
	t.add(name+"SoftHSM2's configuration", err)
	if folder := plugins.SoftHSMTokens(string(text)); folder != "" {
		t.checkShared(name+"directories.tokendir in "+conf, folder)
	}
}

// pathsIn are the absolute paths in the value of a variable: the value itself, or the
// parts of a list such as LD_LIBRARY_PATH.
func pathsIn(value string) []string {
	return slices.DeleteFunc(slices.Compact(append([]string{value}, strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ' ' })...)),
		func(path string) bool { return !filepath.IsAbs(path) })
}
