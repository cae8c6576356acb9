package audit

import (
	"fmt"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newAuditExport(s *cli.Service) *cobra.Command {
	var f queryFlags
	var p cli.Printer
	var account, own string
	cmd := &cobra.Command{
		Use:   "export FOLDER",
		Short: "Write records of the audit trail as CloudTrail's log files",
		Long: `Export writes the records that match all flags to files in the format and with
the names of CloudTrail: AWSLogs/ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/*.json.gz below FOLDER,
one for each day (in UTC), account and Region. A file has all records of its day that match:
--since and --until are widened to midnight UTC. The same trail and flags give the same names, other
flags others: exporting again replaces files atomically. Records lose the members that chain them, so
the files prove nothing; keep the trail for that.

Callers on a Unix socket have no address: their sourceIPAddress is "AWS Internal". For a
day that is not over, the file has the records so far.`,
		Example: `  cmkctl audit export --since 2026-03-01 --until 2026-04-01 /srv/cloudtrail
  cmkctl audit export --key alias/app /srv/app -o json | jq -r '.files[]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			from := f.source(s)
			q, err := f.query(ctx, from)
			if err != nil {
				return err
			}
			var done struct {
				Records uint64   `json:"records"`
				Files   []string `json:"files"`
			}
			if done.Files, done.Records, err = trail.Export(ctx, from, args[0], q, account, own); err != nil {
				return trailError(from.name, err)
			}
			if p.Output.Value != cli.AsTable {
				if done.Files == nil {
					done.Files = []string{}
				}
				return p.PrintAs(cmd.OutOrStdout(), &done, nil)
			}
			for _, file := range done.Files {
				fmt.Fprintln(cmd.OutOrStdout(), cli.Quote(file))
			}
			fmt.Fprintln(cmd.ErrOrStderr(), cli.Number(done.Records, "record"), "in", cli.Number(len(done.Files), "file"))
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&account, "account", cli.DefaultAccount, "account of records that have none: the trail's own")
	cmd.Flags().StringVar(&own, "own-region", cli.FirstRegion, "Region of records that have none")
	p.RegisterFormat(cmd)
	return cmd
}
