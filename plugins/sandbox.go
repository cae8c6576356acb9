package plugins

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cmkd/plugins/internal/sandbox"
)

// enterSandbox locks the process in with what its module needs.
func (c *Config) enterSandbox(log *slog.Logger) error {
	if c.Sandbox.Off {
		return nil
	}
	p := sandbox.Policy{Readable: c.Sandbox.Readable, Writable: c.Sandbox.Writable, Network: c.Sandbox.Network}
	p.Readable = append(append(p.Readable, libraries(c.Module)...), namedByEnvironment()...)
	for _, path := range []string{c.Module, c.PINFile} {
		if filepath.IsAbs(path) {
			p.Readable = append(p.Readable, path)
		}
	}
	if c.LoginRecord != "" { // it must be there to be let in
		f, err := os.OpenFile(c.LoginRecord, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("the record of logins: %w", err)
		}
		_ = f.Close() // nothing was written
		p.Writable = append(p.Writable, c.LoginRecord)
	}
	conf, folder := softHSM(os.Getenv("SOFTHSM2_CONF"))
	if conf != "" {
		p.Readable = append(p.Readable, conf)
	}
	if folder != "" {
		p.Writable = append(p.Writable, folder)
	}
	return sandbox.Enter(p, log)
}

// libraries are the shared libraries in the folders of a module and of what its
// name links to.
func libraries(module string) []string {
	var out []string
	folders := []string{filepath.Dir(module)}
	if target, err := filepath.EvalSymlinks(module); err == nil {
		folders = append(folders, filepath.Dir(target))
	}
	for _, f := range folders {
		for _, pattern := range []string{"*.so", "*.so.*"} {
			found, err := filepath.Glob(filepath.Join(f, pattern))
			if err == nil && filepath.IsAbs(f) {
				out = append(out, found...)
			}
		}
	}
	return out
}

// namedByEnvironment are the files and folders that the environment names,
// which is the one that the configuration gives the module.
func namedByEnvironment() []string {
	var out []string
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "PLUGIN_") && name != "PATH" && filepath.IsAbs(value) && filepath.Clean(value) != "/" {
			out = append(out, value)
		}
	}
	return out
}

// SoftHSMConf is where SoftHSM2 looks without SOFTHSM2_CONF.
const SoftHSMConf = "/etc/softhsm/softhsm2.conf"

// softHSM returns SoftHSM2's configuration file and the folder of tokens that
// it names, "" where there is none: a token that is a folder is the one kind that
// has to write.
func softHSM(conf string) (file, folder string) {
	if conf == "" {
		conf = SoftHSMConf
	}
	text, err := os.ReadFile(conf)
	if err != nil || !filepath.IsAbs(conf) {
		return "", ""
	}
	return conf, SoftHSMTokens(string(text))
}

// SoftHSMTokens returns the folder of tokens that a configuration of SoftHSM2 names
// (softhsm2.conf(5), directories.tokendir), "" if it names none by an absolute path.
func SoftHSMTokens(conf string) (folder string) {
	for line := range strings.Lines(conf) {
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "directories.tokendir" && filepath.IsAbs(strings.TrimSpace(value)) {
			folder = strings.TrimSpace(value)
		}
	}
	return folder
}
