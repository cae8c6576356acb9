package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/operatorapi"
)

// reloadTimeout is for the plugins of several tokens to start again, one after the
// other.
const reloadTimeout = 10 * time.Minute

func newReload(s *service) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again; exit with 1 if that fails",
		Long: `The daemon reads admins, principals, access keys and identity policies again and
replaces its plugins, as on SIGHUP. If anything in them is wrong, all of the old
set stays, the reason is shown, and the status is degraded until a reload
succeeds. "systemctl reload cmkd" calls this command.`,
		Example: "  cmkctl reload",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("timeout") {
				s.timeout = reloadTimeout
			}
			var answer operatorapi.Reloaded
			if err := ask(cmd.Context(), s, operatorapi.Reload.Path, operatorapi.None{}, &answer); err != nil {
				return fmt.Errorf("reload failed: %w", err)
			}
			for _, w := range answer.Warnings {
				cmd.PrintErrln("warning:", w)
			}
			return nil
		},
	}
}
