package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cmkd/backends"
	"cmkd/daemon/config"
	"cmkd/daemon/trustedfile"
	"cmkd/plugins"
)

// pluginsDir is where plugin processes have their sockets.
func pluginsDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "plugins") }

// loginPrefix begins the names of the files with PINs that tokens refused, before the
// token's name.
const loginPrefix = "login-"

// spareDir is where they have them while the disk of the state folder is full or
// read-only: in memory. It is for one state folder and one user.
func spareDir(cfg *config.Config) string {
	sum := sha256.Sum256([]byte(cfg.StateDir))
	return fmt.Sprintf("/dev/shm/cmkd-%d-%x", os.Geteuid(), sum[:8])
}

// pluginSpec is the plugin on a token, held to what it must serve.
func (r *router) pluginSpec(cfg *config.Config, t config.Part, p config.Plugin, log *slog.Logger) (plugins.Spec, error) {
	spec, err := pluginSpec(cfg, t, p, log)
	spec.Token = &r.known[t.Title()].Token
	spec.Accept = func(info *backends.InfoAnswer) error { return r.promises[p.Name].kept(p.Path, info) }
	if t.Member != "" && r.own != nil {
		spec.Compare = r.comparison(cfg, t)
	}
	return spec, err
}

// pluginSpec is the plugin on a token, whatever it serves.
func pluginSpec(cfg *config.Config, t config.Part, p config.Plugin, log *slog.Logger) (plugins.Spec, error) {
	sum, err := hex.DecodeString(p.SHA256)
	if err != nil {
		return plugins.Spec{}, fmt.Errorf("sha256 is not hexadecimal: %w", err)
	}
	if len(sum) == 0 {
		sum = nil
	}
	pin, err := trustedfile.SecretPath(t.PINFile)
	if err != nil {
		return plugins.Spec{}, fmt.Errorf("pin_file: %w", err)
	}
	return plugins.Spec{
		Name: t.Title() + "/" + p.Name, Path: p.Path, SHA256: sum, Dir: pluginsDir(cfg), Spare: spareDir(cfg), Env: t.Env,
		Logger: log.With("plugin", p.Name, "token", t.Title()),
		Config: plugins.Config{
			Module: t.Module, TokenLabel: t.Label, TokenSerial: t.Serial,
			PINFile: pin, MaxSessions: t.MaxSessions, Workers: t.Workers, Sandbox: plugins.Sandbox(t.Sandbox),
			LoginRecord: filepath.Join(cfg.StateDir, loginPrefix+strings.ReplaceAll(t.Title(), "/", ".")),
		},
		AwayAfter: t.UnavailableAfter,
	}, nil
}
