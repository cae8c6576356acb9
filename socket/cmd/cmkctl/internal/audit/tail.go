package audit

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newAuditTail(s *cli.Service) *cobra.Command {
	var f queryFlags
	var p cli.Printer
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the newest records of the audit trail, and follow it",
		Long: `Tail prints the newest records that match all flags, oldest first. With -f it
also prints new records as they are written, until it is interrupted; it follows the trail
into new segments, and when older ones are pruned. It reads the files of the
trail, or has the daemon read them, and does not verify them.

With -o json each record is a line, with -o yaml a document.`,
		Example: `  cmkctl audit tail -f --outcome refused
  cmkctl audit tail -n 100 -o json | jq -r '"\(.eventTime) \(.eventName)"'`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return cli.Usagef("--lines %d: want 0 or more", lines)
			}
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			from := f.source(s)
			q, err := f.query(ctx, from)
			if err != nil {
				return err
			}
			list := newRecordList(&p, cmd.OutOrStdout())
			list.stream = true
			newest, last, err := trail.Last(ctx, from, q, lines)
			if err != nil {
				return trailError(from.name, err)
			}
			for _, e := range newest {
				if err := list.add(e); err != nil {
					return err
				}
			}
			if !follow {
				return nil
			}
			err = from.Follow(ctx, q, last, list.add)
			if errors.Is(err, context.Canceled) {
				return nil // somebody has seen enough
			}
			return trailError(from.name, err)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the trail: print new records as they are written")
	cmd.Flags().IntVarP(&lines, "lines", "n", 10, "start with the newest `n` records")
	p.Register(cmd)
	return cmd
}
