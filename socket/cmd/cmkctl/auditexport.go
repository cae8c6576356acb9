package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit/trail"
)

func newAuditExport(s *service) *cobra.Command {
	var f queryFlags
	var p printer
	var account, own string
	cmd := &cobra.Command{
		Use:   "export FOLDER",
		Short: "Write records of the audit trail as CloudTrail's log files",
		Long: `Export writes the records that match all flags to files in the format and with
the names of CloudTrail: AWSLogs/ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/*.json.gz below FOLDER,
one for each day (in UTC), account and Region. The same trail gives the same names:
exporting again replaces files atomically. Records lose the members that chain them, so
the files prove nothing; keep the trail for that.

Callers on a Unix socket have no address: their sourceIPAddress is "AWS Internal". For a
day that is not over, the file has the records so far.`,
		Example: `  cmkctl audit export --since 2026-03-01 --until 2026-04-01 /srv/cloudtrail
  cmkctl audit export --key alias/app /srv/app -o json | jq -r '.files[]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context())
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
			if p.output.value != asTable {
				if done.Files == nil {
					done.Files = []string{}
				}
				return p.printAs(cmd.OutOrStdout(), &done, nil)
			}
			for _, file := range done.Files {
				fmt.Fprintln(cmd.OutOrStdout(), quote(file))
			}
			fmt.Fprintln(cmd.ErrOrStderr(), number(done.Records, "record"), "in", number(len(done.Files), "file"))
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&account, "account", defaultAccount, "account of records that have none: the trail's own")
	cmd.Flags().StringVar(&own, "own-region", firstRegion, "Region of records that have none")
	p.registerFormat(cmd)
	return cmd
}
