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
a request ID, as they are in the trail. It reads the files of the trail,
or has the daemon read them, and does not verify them. It exits with 4 if there is no such record.`,
		Example: `  cmkctl audit show 1024
  cmkctl audit show 6ba7b810-9dad-41d1-80b4-00c04fd430c8 -o json | jq .userIdentity`,
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
			found := 0
			err := from.Search(ctx, trail.Options{Query: q}, func(e *trail.Event) error {
				found++
				if err := printRecord(&p, cmd, e, found); err != nil {
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
			if found == 0 {
				return cli.Exit(cli.ExitNotFound, fmt.Errorf("no record %s in %s", cli.Quote(args[0]), from.name))
			}
			return nil
		},
	}
	f.registerSource(cmd)
	p.RegisterFormat(cmd)
	return cmd
}

// printRecord prints all of a record: for people as YAML, which is JSON without its
// quotes.
func printRecord(p *cli.Printer, cmd *cobra.Command, e *trail.Event, n int) error {
	out := cmd.OutOrStdout()
	if p.Output.Value == cli.AsJSON {
		text := jsontext.Value(e.Line)
		if err := text.Indent(jsontext.WithIndent("  ")); err != nil {
			return cli.Inputf("record %d is not JSON: %w", e.Sequence, err)
		}
		_, err := fmt.Fprintf(out, "%s\n", text)
		return err
	}
	if n > 1 {
		fmt.Fprintln(out, "---")
	}
	if err := cli.PrintYAML(out, e.Line); err != nil {
		return cli.Inputf("record %d is not JSON: %w", e.Sequence, err)
	}
	return nil
}
