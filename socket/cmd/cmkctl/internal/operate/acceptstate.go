package operate

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// mismatch is why the daemon does not trust its database.
type mismatch operatorapi.Mismatch

func NewAcceptState(s *cli.Service) *cobra.Command {
	var root string
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "accept-state [--root ROOT]",
		Short: "Show what is wrong with the daemon's database or audit trail, or accept it as it is",
		Long: `The daemon's database is authenticated by a key in the token. When it does not
verify, because somebody has changed the file or replaced it with an older one, the daemon
performs no cryptography and makes no changes.

The same applies to the audit trail: when the record that the database names is not in it,
a checkpoint was not signed by the token, or a part is missing.

Without --root, the command shows which rows differ. With the ROOT that it showed, it
accepts the rows as they are, for example after restoring a backup; the audit trail
records that. Only the state that was shown is accepted. If the audit trail does not
verify, a new one begins, which says so, and the old one moves to a folder beside it.`,
		Example: `  cmkctl accept-state
  cmkctl accept-state --root "$ROOT"`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var answer operatorapi.Acceptance
			if err := p.Ask(cmd.Context(), s, operatorapi.AcceptState.Path, &operatorapi.AcceptRequest{Root: root}, &answer); err != nil {
				return err
			}
			err := p.PrintAs(cmd.OutOrStdout(), &answer, func(out io.Writer) error {
				switch {
				case answer.Accepted:
					fmt.Fprintln(out, "the database is accepted: the daemon serves calls again")
				case answer.Mismatch == nil:
					fmt.Fprintln(out, "the database verifies: there is nothing to accept")
				default:
					return (*mismatch)(answer.Mismatch).print(out)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("printing what differs: %w", err)
			}
			if !answer.Accepted && answer.Mismatch != nil {
				return &cli.ExitError{Status: 1}
			}
			return nil
		},
	}
	p.RegisterFormat(cmd)
	cmd.Flags().StringVar(&root, "root", "", "accept the rows with this `hash`")
	return cmd
}

func (m *mismatch) print(out io.Writer) error {
	fmt.Fprintf(out, "the database does not verify: %s\n", m.Reason)
	if m.Trail != "" {
		fmt.Fprintf(out, "the audit trail does not verify: %s\n", m.Trail)
		fmt.Fprintln(out, "to keep it, stop cmkd, restore what is missing or was changed, and start cmkd again;")
		fmt.Fprintln(out, "if you accept it as it is, a new trail begins, and the old one is kept in a separate folder")
	}
	if m.Sequence > 0 {
		trust := "not authentic"
		if m.HeadVerified {
			trust = "authentic"
		}
		fmt.Fprintf(out, "its head (%s): commit %d of %s, epoch %d; the audit trail has %d later records\n",
			trust, m.Sequence, m.Time.Format(time.RFC3339), m.Epoch, m.LaterRecords)
	}
	switch {
	case m.CompareError != "":
		fmt.Fprintf(out, "the differences cannot be determined: %s\n", m.CompareError)
	case len(m.Differences) == 0 && m.Exact:
		fmt.Fprintln(out, "the rows are those of the last commit")
	case len(m.Differences) == 0:
		fmt.Fprintln(out, "no row is known to differ")
	case m.Exact:
		fmt.Fprintf(out, "%d rows differ from the last commit:\n", len(m.Differences))
	default:
		fmt.Fprintf(out, "at least %d rows differ:\n", len(m.Differences))
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, d := range m.Differences {
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.Kind, d.Table, d.Row)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if m.Root != "" {
		fmt.Fprintf(out, "to accept the database as it is: cmkctl accept-state --root %s\n", m.Root)
	}
	return nil
}
