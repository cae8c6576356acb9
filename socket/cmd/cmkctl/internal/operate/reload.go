package operate

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// reloadTimeout is for the plugins of several tokens to start again, one after the
// other.
const reloadTimeout = 10 * time.Minute

func NewReload(s *cli.Service) *cobra.Command {
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon reload its configuration; exit with 1 if that fails",
		Long: `The daemon reads admins, principals, access keys and identity policies again and
replaces its plugin processes, as on SIGHUP. If anything is wrong, the old settings stay
in force, the reason is shown, and the status is degraded until a reload
succeeds. "systemctl reload cmkd" calls this command.`,
		Example: "  cmkctl reload",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("timeout") {
				s.Timeout = reloadTimeout
			}
			var answer operatorapi.Reloaded
			if err := p.Ask(cmd.Context(), s, operatorapi.Reload.Path, operatorapi.None{}, &answer); err != nil {
				return fmt.Errorf("reload failed: %w", err)
			}
			return p.PrintAs(cmd.OutOrStdout(), &answer, func(io.Writer) error {
				for _, w := range answer.Warnings {
					cmd.PrintErrln("warning:", w)
				}
				return nil
			})
		},
	}
	p.RegisterFormat(cmd)
	return cmd
}
