package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit/trail"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newAuditReport(s *cli.Service) *cobra.Command {
	var f queryFlags
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Summarise who used which key, and who was refused, by day",
		Long: `Report counts the calls that match all flags by day (in UTC), key and caller:
those that succeeded, those that a policy refused, and those that failed. Calls without a
key, or for a key that was not found, show none. It reads the files of the trail,
or has the daemon read them, and does not verify them. A call about two keys, such as ReEncrypt, counts for both.`,
		Example: `  cmkctl audit report --since 30d --key alias/app
  cmkctl audit report --since 2026-03-01 --outcome refused -o json | jq -r '.[].principal' | sort -u`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			from := f.source(s)
			q, err := f.query(ctx, from)
			if err != nil {
				return err
			}
			uses, err := trail.Report(ctx, from.Source, q)
			if err != nil {
				return trailError(from.name, err)
			}
			t := cli.Table{Headers: []string{"DAY", "KEY", "PRINCIPAL", "USED", "REFUSED", "FAILED", "OPERATIONS"}}
			for _, u := range uses {
				var operations []string
				for _, name := range slices.Sorted(maps.Keys(u.Operations)) {
					operations = append(operations, fmt.Sprintf("%s:%d", name, u.Operations[name]))
				}
				t.Add(u.Day, u.Key, u.Principal, fmt.Sprint(u.Used), fmt.Sprint(u.Refused), fmt.Sprint(u.Failed), strings.Join(operations, " "))
			}
			if p.Output.Value == cli.AsTable {
				return p.Print(cmd.OutOrStdout(), uses, t)
			}
			if uses == nil {
				uses = []*trail.Use{}
			}
			return p.PrintAs(cmd.OutOrStdout(), uses, nil)
		},
	}
	f.register(cmd)
	p.Register(cmd)
	return cmd
}
