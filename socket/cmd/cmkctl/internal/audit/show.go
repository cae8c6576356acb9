package audit

import (
	"bytes"
	"fmt"
	"io"
	"slices"
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
a request ID, as they are in the trail; -o json and -o yaml print several as one list. It
reads the files of the trail, or has the daemon read them, and does not verify them. It exits
with 4 if there is no such record.`,
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
			var records [][]byte
			err := from.Search(ctx, trail.Options{Query: q}, func(e *trail.Event) error {
				line := jsontext.Value(bytes.Clone(e.Line))
				if !line.IsValid() {
					return cli.Inputf("record %d is not JSON", e.Sequence)
				}
				records = append(records, line)
				if q.Sequence != 0 {
					return trail.Stop
				}
				return nil
			})
			if err != nil {
				return trailError(from.name, err)
			}
			if len(records) == 0 {
				return cli.Exit(cli.ExitNotFound, fmt.Errorf("no record %s in %s", cli.Quote(args[0]), from.name))
			}
			return printRecords(cmd.OutOrStdout(), p.Output.Value, records)
		},
	}
	f.registerSource(cmd)
	p.RegisterFormat(cmd)
	return cmd
}

// printRecords prints all of each record: a list of several as JSON and YAML, and one after the other for
// people, as YAML, which is JSON without its quotes.
func printRecords(out io.Writer, format string, records [][]byte) error {
	if format != cli.AsJSON && format != cli.AsYAML {
		for i, record := range records {
			if i > 0 {
				fmt.Fprintln(out, "---")
			}
			if err := cli.PrintYAML(out, record); err != nil {
				return err
			}
		}
		return nil
	}
	text := jsontext.Value(records[0])
	if len(records) > 1 {
		text = slices.Concat([]byte("["), bytes.Join(records, []byte(",")), []byte("]"))
	}
	if format == cli.AsYAML {
		return cli.PrintYAML(out, text)
	}
	if err := text.Indent(jsontext.WithIndent("  ")); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s\n", text)
	return err
}
