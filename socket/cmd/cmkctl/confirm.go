package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/operatorapi"
)

func newConfirmClock(s *service) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm-clock",
		Short: "Say that the daemon's clock is right, so that it deletes again",
		Long: `When the daemon's clock is more than a day ahead of the last time it saw, it
deletes neither keys nor expired material until somebody says that the time is
right: a wrong clock would end every waiting period at once. Nor does it after
"cmkctl accept-state" of a database in which deletions or expiries are scheduled:
first cancel those that were cancelled since the copy was taken. "cmkctl status"
says whether deletions are held.`,
		Example: "  date && cmkctl confirm-clock",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := http.NewRequestWithContext(cmd.Context(), operatorapi.ConfirmClock.Method, "http://localhost"+operatorapi.ConfirmClock.Path, nil)
			if err != nil {
				return err
			}
			status, body, err := s.do(req, 1<<16)
			if err != nil {
				return err
			}
			var answer operatorapi.ConfirmedClock
			if status != http.StatusOK || json.Unmarshal(body, &answer) != nil {
				return refused(status, fmt.Sprintf("the daemon refuses: %s (HTTP status %d)", strings.TrimSpace(string(body)), status))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "it is %s: deletions go on\n", answer.Now.Format(time.RFC3339))
			return nil
		},
	}
}
