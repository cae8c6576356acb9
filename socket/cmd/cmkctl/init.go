package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cmkd/socket/client"
	"cmkd/socket/cmd/cmkctl/internal/bridge"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// setup is what init and dev need to know to set a daemon up.
type setup struct {
	account       string
	regions       []string
	socket        string
	mode          string
	group         string
	stateDir      string
	module        string
	moduleEnv     cli.Pairs
	sandbox       sandboxConfig
	label         string
	serial        string
	pinFile       string
	softHSM       bool
	plaintextKeys bool
	// notes are what cmkd says of the token, once its keys are made.
	notes []string
}

// newInit makes the command; socket is the value of the common --socket flag.
func newInit(socket *string) *cobra.Command {
	var (
		s   setup
		p   cli.Printer
		dir string
	)
	cmd := &cobra.Command{
		Use:   "init --dir DIR (--softhsm | --module PATH --pin-file FILE)",
		Short: "Write a configuration and create the daemon's own keys in a token",
		Long: `Init writes DIR/config.toml, which must not exist, and lets cmkd create its own
keys in the token, including the key that wraps data keys. The label, or the serial
number, selects the token.
With --softhsm, init first creates a new SoftHSM2 token in DIR/tokens with random PINs in
DIR/pin and DIR/so-pin.

The socket is ` + client.DefaultPath + `, where clients look, if DIR is ` + systemDir + `, and
DIR/cmkd.sock otherwise, unless --socket is given. If init fails, it removes what it has
written, except for the state, which records the keys in the token.`,
		Example: `  cmkctl init --dir /etc/cmkd --module /opt/cloudhsm/lib/libcloudhsm_pkcs11.so \
      --module-network --module-writable /opt/cloudhsm/run \
      --token-label hsm1 --pin-file /etc/cmkd/pin --account 123456789012
  cmkctl init --dir ~/cmkd --softhsm`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !s.softHSM && (s.module == "" || s.pinFile == "") {
				return cli.Usagef("give --module and --pin-file of a token, or --softhsm for a new one")
			}
			if s.softHSM && s.pinFile != "" {
				return cli.Usagef("--softhsm makes its own --pin-file")
			}
			if s.softHSM && s.serial != "" {
				return cli.Usagef("--softhsm makes a token, whose serial number SoftHSM2 chooses: name it with --token-label")
			}
			s.warn(cmd)
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			_, before := os.Lstat(dir)
			l, err := makeLayout(dir)
			if err != nil {
				return err
			}
			s.socket = *socket
			if err := s.run(ctx, l, cmd.ErrOrStderr()); err != nil {
				if errors.Is(before, fs.ErrNotExist) {
					_ = os.Remove(l.dir) // one with something in it stays
				}
				return err
			}
			daemon, err := findDaemon()
			if err != nil {
				return err
			}
			made := madeSetup{Daemon: daemon, Config: l.config(), Socket: s.socketPath(l), Notes: append([]string{}, s.notes...)}
			return p.PrintAs(cmd.OutOrStdout(), made, func(out io.Writer) error { return made.sayHow(out, l) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "dir", "", "`folder` for the configuration and, unless told otherwise, the state")
	flags.BoolVar(&s.softHSM, "softhsm", false, "create a new SoftHSM2 token in the folder")
	s.tokenFlags(cmd)
	flags.StringVar(&s.account, "account", cli.DefaultAccount, "account `number` in ARNs, 12 digits; it cannot change later")
	flags.StringSliceVar(&s.regions, "region", []string{cli.FirstRegion}, "`Region` to serve, the first by default; repeatable")
	flags.StringVar(&s.stateDir, "state-dir", "", "`folder` for the database and the audit trail (default DIR/state)")
	flags.StringVar(&s.mode, "socket-mode", "0660", "file `mode` of the socket")
	flags.StringVar(&s.group, "socket-group", "", "`group` of the socket (default the daemon's)")
	flags.BoolVar(&s.plaintextKeys, "plaintext-data-keys", false, "let data keys leave in the clear, as AWS KMS does")
	p.RegisterFormat(cmd)
	_ = cmd.MarkFlagRequired("dir") // fails only for a flag that is not there
	return cmd
}

// tokenFlagNames are those of tokenFlags beside --module.
var tokenFlagNames = []string{
	"pin-file", "token-label", "token-serial", "module-env", "module-network", "module-readable", "module-writable", "module-unconfined",
}

// madeSetup is what init prints.
type madeSetup struct {
	Daemon string `json:"daemon"`
	Config string `json:"config"`
	Socket string `json:"socket"`
	// Notes say what else to know.
	Notes []string `json:"notes"`
}

// tokenFlags are the flags that say which token to use, and how.
func (s *setup) tokenFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.module, "module", "", "`path` of the PKCS#11 library")
	s.moduleEnv = cli.Pairs{}
	flags.Var(s.moduleEnv, "module-env", "environment variable for the library, "+cli.PairsUsage)
	flags.BoolVar(&s.sandbox.Network, "module-network", false, "let the library use sockets: for a network HSM, or the vendor's own daemon")
	flags.StringArrayVar(&s.sandbox.Readable, "module-readable", nil, "`path` that the library may read besides its own folder; repeatable")
	flags.StringArrayVar(&s.sandbox.Writable, "module-writable", nil, "`path` that the library may write, such as a device or a folder for its log; repeatable")
	flags.BoolVar(&s.sandbox.Off, "module-unconfined", false, "run the library without a sandbox, with all that the daemon's user may do, as opencryptoki of Debian needs")
	cmd.MarkFlagsMutuallyExclusive("module-unconfined", "module-network")
	cmd.MarkFlagsMutuallyExclusive("module-unconfined", "module-readable")
	cmd.MarkFlagsMutuallyExclusive("module-unconfined", "module-writable")
	flags.StringVar(&s.label, "token-label", cli.DefaultLabel, "`label` of the token")
	flags.StringVar(&s.serial, "token-serial", "", "serial `number` of the token, instead of its label")
	cmd.MarkFlagsMutuallyExclusive("token-label", "token-serial")
	flags.StringVar(&s.pinFile, "pin-file", "", "`file` with the user PIN of the token")
}

// warn says that the variable that every other program with SoftHSM2 obeys does not reach the module.
func (s *setup) warn(cmd *cobra.Command) {
	const variable = "SOFTHSM2_CONF"
	conf, own := os.Getenv(variable), s.moduleEnv[variable]
	if conf != "" && own == "" && strings.Contains(filepath.Base(s.module), "softhsm") {
		cmd.PrintErrf("warning: the module does not see %s of the environment: give --module-env %s=%s\n", variable, variable, bridge.ShellQuote(conf))
	}
}

// sayHow says how to go on.
func (m madeSetup) sayHow(out io.Writer, l layout) error {
	text := fmt.Sprintf("cmkd is set up. Start it with: %s -config %s\n", bridge.ShellQuote(m.Daemon), bridge.ShellQuote(m.Config))
	if l.dir == systemDir {
		text += "Or as a service, with the units of make install: sudo systemctl enable --now cmkd.socket cmkd.service\n"
	}
	if m.Socket != client.DefaultPath {
		text += fmt.Sprintf("Its clients find it with: export %s=%s\n", client.PathVariable, bridge.ShellQuote(m.Socket))
	}
	for _, note := range m.Notes {
		text += "Note: " + note + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}

// socketPath is the path of the socket: what the user says, else where clients
// look for a daemon of the system, else in the user's own folder.
func (s *setup) socketPath(l layout) string {
	switch {
	case s.socket != "":
		return s.socket
	case l.dir == systemDir || strings.HasPrefix(l.dir, systemDir+"/"):
		return client.DefaultPath
	default:
		return l.socket()
	}
}

// systemDir is the folder of the configuration of a daemon of the system.
const systemDir = "/etc/cmkd"

// run makes token, configuration and keys in l. Complaints of cmkd go to log. If
// it fails, nothing is left that is in the way of the next try.
func (s *setup) run(ctx context.Context, l layout, log io.Writer) (err error) {
	blank, err := blankConfig(l.config())
	if err != nil {
		return err
	}
	cfg, err := s.config(l)
	if err != nil {
		return err
	}
	daemon, err := findDaemon()
	if err != nil {
		return err
	}
	if s.softHSM {
		if cfg.Tokens[0], err = makeSoftHSMToken(ctx, l, s.module, s.label); err != nil {
			return err
		}
	}
	_, stateErr := os.Lstat(cfg.StateDir)
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(l.config()), blank.putBack(l.config()), s.discard(l, cfg, errors.Is(stateErr, fs.ErrNotExist)))
		}
	}()
	if blank != nil {
		if err := os.Remove(l.config()); err != nil {
			return fmt.Errorf("replacing %s, which says nothing: %w", l.config(), err)
		}
	}
	if err := cfg.create(l.config()); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	s.notes, err = initDaemon(ctx, daemon, l.config(), log)
	if err != nil && !s.softHSM && !s.sandbox.Off && strings.Contains(err.Error(), "C_Initialize of module") {
		err = fmt.Errorf("%w\n%s", err, sandboxAdvice)
	}
	return err
}

// discard removes a SoftHSM2 token that was made in vain, and the state with it if
// that is new. The state of another token stays: it knows what was made in it, and
// the next try goes on from there.
func (s *setup) discard(l layout, cfg *daemonConfig, newState bool) error {
	if !s.softHSM {
		return nil
	}
	paths := l.softHSMFiles()
	if newState {
		paths = append(paths, cfg.StateDir)
	}
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// config is the configuration for s, with the token it names.
func (s *setup) config(l layout) (*daemonConfig, error) {
	cfg := &daemonConfig{
		Account:           s.account,
		Regions:           s.regions,
		StateDir:          l.state(),
		PlaintextDataKeys: s.plaintextKeys,
		Socket:            socketConfig{Path: l.socket(), Mode: s.mode, Group: s.group},
		Admins:            adminConfig{Users: []string{}, Groups: []string{}},
		Tokens:            []tokenConfig{{Name: "main", Module: s.module, Label: s.label, Serial: s.serial, PINFile: s.pinFile, Env: s.moduleEnv}},
	}
	if s.serial != "" {
		cfg.Tokens[0].Label = ""
	}
	if len(s.regions) > 0 {
		cfg.Region = s.regions[0]
	}
	if s.sandbox.Off || s.sandbox.Network || len(s.sandbox.Readable)+len(s.sandbox.Writable) > 0 {
		cfg.Tokens[0].Sandbox = &s.sandbox
	}
	for _, p := range []struct {
		target *string
		chosen string
	}{
		{&cfg.Socket.Path, s.socketPath(l)},
		{&cfg.StateDir, s.stateDir},
		{&cfg.Tokens[0].Module, s.module},
		{&cfg.Tokens[0].PINFile, s.pinFile},
	} {
		if p.chosen == "" {
			continue
		}
		abs, err := filepath.Abs(p.chosen)
		if err != nil {
			return nil, err
		}
		*p.target = abs
	}
	return cfg, cfg.check()
}
