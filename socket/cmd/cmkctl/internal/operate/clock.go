package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

func NewConfirmClock(s *cli.Service) *cobra.Command {
	return &cobra.Command{
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
			req, err := http.NewRequestWithContext(cmd.Context(), operatorapi.ConfirmClock.Method, "http://localhost"+operatorapi.ConfirmClock.Path, nil)
			if err != nil {
				return err
			}
			status, body, err := s.Do(req, 1<<16)
			if err != nil {
				return err
			}
			var answer operatorapi.ConfirmedClock
			if status != http.StatusOK || json.Unmarshal(body, &answer) != nil {
				return cli.Refused(status, fmt.Sprintf("the daemon refuses: %s (HTTP status %d)", strings.TrimSpace(string(body)), status))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "it is %s: deletions go on\n", answer.Now.Format(time.RFC3339))
			return nil
		},
	}
}
