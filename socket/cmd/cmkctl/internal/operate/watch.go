package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// seen is what status -w prints of a status.
type seen struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"` // as the daemon has it, or unreachable
	Next  string    `json:"next"`  // what to do
}

// unreachable is the state of a daemon that does not answer.
const unreachable = "unreachable"

// watchStatus prints a line each time that the state changes, or what there is to do,
// until somebody has seen enough.
func watchStatus(cmd *cobra.Command, s *cli.Service, p *cli.Printer, interval time.Duration) error {
	ctx, stop := cli.UntilSignal(cmd.Context())
	defer stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	out := cmd.OutOrStdout()
	if p.Output.Value == cli.AsTable && !p.NoHeaders {
		fmt.Fprintf(out, watchColumns, "TIME", "STATE", "NEXT")
	}
	for last := (seen{}); ; {
		now, err := lookOnce(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if now.State != last.State || now.Next != last.Next {
			if err := now.print(out, p.Output.Value); err != nil {
				return err
			}
			last = *now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lookOnce is how the daemon is now. Only a refusal is an error: one that does not answer
// may be on its way.
func lookOnce(ctx context.Context, s *cli.Service) (*seen, error) {
	now := &seen{Time: time.Now().UTC().Truncate(time.Second)}
	h, err := ReadHealth(ctx, s)
	if exit, ok := errors.AsType[*cli.ExitError](err); ok && exit.Status == cli.ExitUnavailable {
		now.State, now.Next = unreachable, err.Error()
		return now, nil
	}
	if err != nil {
		return nil, err
	}
	now.State, now.Next = h.State, h.next()
	return now, nil
}

const watchColumns = "%-20s  %-11s  %s\n"

func (s *seen) print(out io.Writer, format string) error {
	if format == cli.AsTable {
		_, err := fmt.Fprintf(out, watchColumns, s.Time.Format(time.RFC3339), s.State, strings.ReplaceAll(s.Next, "\n", "; "))
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if format == cli.AsJSON {
		_, err = fmt.Fprintf(out, "%s\n", text)
		return err
	}
	fmt.Fprintln(out, "---")
	return cli.PrintYAML(out, text)
}
