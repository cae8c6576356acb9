package operate

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

func NewConfirmClock(s *cli.Service) *cobra.Command {
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "confirm-clock",
		Short: "Confirm that the daemon's clock is right, so that deletions resume",
		Long: `When the clock is more than a day ahead of the last time that the daemon saw, it
deletes neither keys nor expired material until somebody confirms the time: a wrong clock
would end every waiting period at once. The same applies after "cmkctl accept-state" of a
database with scheduled deletions or expiries: first repeat the cancellations made since
the copy was taken. "cmkctl status" shows whether deletions are held.`,
		Example: "  date && cmkctl confirm-clock",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var answer operatorapi.ConfirmedClock
			if err := p.Ask(cmd.Context(), s, operatorapi.ConfirmClock.Path, operatorapi.None{}, &answer); err != nil {
				return err
			}
			return p.PrintAs(cmd.OutOrStdout(), &answer, func(out io.Writer) error {
				fmt.Fprintf(out, "it is %s: deletions go on\n", answer.Now.Format(time.RFC3339))
				return nil
			})
		},
	}
	p.RegisterFormat(cmd)
	return cmd
}
