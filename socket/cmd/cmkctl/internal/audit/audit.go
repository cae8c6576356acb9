package audit

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

func NewCommand(s *cli.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Search, verify and prune the audit trail",
	}
	cmd.AddCommand(newAuditVerify(s), newAuditPrune(s), newAuditSearch(s), newAuditShow(s), newAuditTail(s), newAuditReport(s), newAuditExport(s))
	return cmd
}

func newAuditPrune(s *cli.Service) *cobra.Command {
	var in operatorapi.PruneRequest
	var before string
	var p cli.Printer
	var confirm cli.Confirmation
	cmd := &cobra.Command{
		Use:   "prune --before DATE | --keep N",
		Short: "Remove the oldest segments of the audit trail",
		Long: `Prune removes the oldest segments of the audit trail: those with only records
from before DATE (2006-01-02, in UTC, or RFC 3339), or all but the newest
N. They are verified first. The trail records who did it, and a checkpoint signs
the new beginning, before anything is removed; verification accepts that beginning and no
later one. The segment being written stays.

With --archive the segments move to the folder "archive" beside the trail. Without, they
are gone: somebody has to say yes, or --yes has to be given.`,
		Example: `  cmkctl audit prune --before 2026-01-01 --archive
  cmkctl audit prune --keep 12 --yes`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (before == "") == (in.Keep == 0) || in.Keep < 0 {
				return cli.Usagef("give one of --before DATE and --keep N, where N is at least 1")
			}
			if before != "" {
				var err error
				if in.Before, err = cli.ParseTime("--before", before); err != nil {
					return err
				}
			}
			if !in.Archive {
				if err := confirm.Ask("Remove segments of the audit trail"); err != nil {
					return err
				}
			}
			var answer operatorapi.PruneAnswer
			if err := p.Ask(cmd.Context(), s, operatorapi.PruneTrail.Path, &in, &answer); err != nil {
				return err
			}
			return p.PrintAs(cmd.OutOrStdout(), &answer, func(out io.Writer) error {
				(*pruning)(answer.Pruned).print(out)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "remove segments with records from before this `date` only")
	cmd.Flags().IntVar(&in.Keep, "keep", 0, "keep the newest `n` segments")
	cmd.Flags().BoolVar(&in.Archive, "archive", false, "move the segments to the folder archive of the trail")
	confirm.Register(cmd)
	p.RegisterFormat(cmd)
	return cmd
}

func (p *pruning) print(out io.Writer) {
	if p == nil {
		fmt.Fprintln(out, "nothing to remove")
		return
	}
	what := "removed"
	if p.Archive != "" {
		what = "moved to " + p.Archive
	}
	fmt.Fprintf(out, "%s: %s until %s, %s\n", what, cli.Number(p.Records, "record"), p.Until.Format(time.RFC3339), strings.Join(p.Segments, " "))
	fmt.Fprintf(out, "the audit trail begins with record %d\n", p.First)
}
