package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
)

// findings are what one plugin found in one token, as `cmkd -probe` says it.
type findings struct {
	Token  string            `json:"token"`
	Plugin string            `json:"plugin"`
	Found  *foundToken       `json:"found,omitempty"`
	Specs  []foundSpec       `json:"specs,omitempty"`
	Facts  map[string]string `json:"facts,omitempty"`
	Error  string            `json:"error,omitempty"`
}

type foundToken struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	ReadOnly     bool   `json:"readOnly,omitempty"`
	Keys         int    `json:"keys"`
}

type foundSpec struct {
	Spec        string   `json:"spec"`
	Usages      []string `json:"usages,omitempty"`
	Unsupported string   `json:"unsupported,omitempty"`
}

func newDoctor(s *cli.Service) *cobra.Command {
	var (
		t setup
		p cli.Printer
	)
	cmd := &cobra.Command{
		Use:   "doctor [--module PATH --pin-file FILE]",
		Short: "Show what the tokens can do, and how they import key material",
		Long: `Doctor shows what each plugin found when it probed its token by calling it: mechanisms,
whether imported key material is unwrapped in the token or passes through the
plugin ("import-..."), and the key specs that the token cannot hold.

With --module, doctor probes that token itself, without a daemon and without a
configuration. It leaves nothing in the token, and logs in with the PIN once, even if
several plugins serve the token. It does so in a temporary state folder: it does not know which PIN
the token has refused to a daemon, nor does a daemon learn which one it has refused to
doctor. So every run with a wrong PIN uses up one of the tries that the token allows.

Exit status with --module: 0 if every plugin can serve the token, even if not with every
kind of key; 1 if one cannot, for example because the library cannot be loaded, the PIN is
refused, or the token reveals sensitive keys. Without --module: 0 if the daemon answers, whatever
it found ("cmkctl status" exits with 1 if it is degraded), 3 if you may not ask it, 5 if
it does not answer.`,
		Example: `  cmkctl doctor
  cmkctl doctor --module /usr/lib/softhsm/libsofthsm2.so --token-label cmkd --pin-file pin
  cmkctl doctor -o json --module /opt/hsm/libhsm.so --module-network --pin-file pin`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.module == "" {
				for _, name := range tokenFlagNames {
					if cmd.Flags().Changed(name) {
						return cli.Usagef("--%s is of a token that --module loads: give that, too", name)
					}
				}
				return doctorDaemon(cmd, s, &p)
			}
			if t.pinFile == "" {
				return cli.Usagef("--module wants the --pin-file of the token, too")
			}
			t.warn(cmd)
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			list, err := t.probe(ctx, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			probed := reports(list, true) // of the one token
			if p.Output.Value != cli.AsTable {
				err = printReports(cmd.OutOrStdout(), probed, &p)
			} else {
				err = printProbed(cmd.OutOrStdout(), &probed[0], &p)
			}
			if err != nil {
				return err
			}
			return verdict(&probed[0], !t.sandbox.Off)
		},
	}
	t.tokenFlags(cmd)
	p.Register(cmd)
	return cmd
}

// doctorDaemon says what the daemon's plugins found.
func doctorDaemon(cmd *cobra.Command, s *cli.Service, p *cli.Printer) error {
	h, err := operate.ReadHealth(cmd.Context(), s)
	if err != nil {
		return err
	}
	for _, w := range h.Warnings {
		cmd.PrintErrf("warning: %s\n", w)
	}
	list := reports(daemonFindings(h), false)
	if p.Output.Value != cli.AsTable {
		return printReports(cmd.OutOrStdout(), list, p)
	}
	if err := diagnose(list, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("printing what was found: %w", err)
	}
	return nil
}
