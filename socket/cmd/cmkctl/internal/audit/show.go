package audit

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newAuditShow(s *cli.Service) *cobra.Command {
	var f trailFlags
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one record of the audit trail",
		Long: `Show prints the record with an event ID or a sequence number, or all records with
a request ID, as they are in the trail; -o json and -o yaml print them as a list. It reads the
files of the trail, or has the daemon read them, and does not verify them. It exits with 4 if there
is no such record.`,
		Example: `  cmkctl audit show 1024
  cmkctl audit show 6ba7b810-9dad-41d1-80b4-00c04fd430c8 -o json | jq '.[].userIdentity'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			from := f.source(s)
			q := trail.Query{ID: args[0]}
			if n, err := strconv.ParseUint(args[0], 10, 64); err == nil && n > 0 {
				q = trail.Query{Sequence: n}
			}
			if args[0] == "" {
				return cli.Usagef("want the ID of a record")
			}
			list := newRecordList(&p, cmd.OutOrStdout())
			list.whole = true
			err := from.Search(ctx, trail.Options{Query: q}, func(e *trail.Event) error {
				if !jsontext.Value(e.Line).IsValid() {
					return cli.Inputf("record %d is not JSON", e.Sequence)
				}
				if err := list.add(e); err != nil {
					return err
				}
				if q.Sequence != 0 {
					return trail.Stop
				}
				return nil
			})
			if err != nil {
				return trailError(from.name, err)
			}
			if list.n == 0 {
				return cli.Exit(cli.ExitNotFound, fmt.Errorf("no record %s in %s", cli.Quote(args[0]), from.name))
			}
			return list.end()
		},
	}
	f.registerSource(cmd)
	p.RegisterFormat(cmd)
	return cmd
}
