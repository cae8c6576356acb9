package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// copied is what store copy prints: the configurations of the two databases.
type copied struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func newStoreCopy() *cobra.Command {
	var from, to string
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "copy --from FILE --to FILE",
		Short: "Copy the database of a stopped daemon, such as from SQLite into etcd",
		Long: `Copy transfers the database of one configuration into the empty database of another,
and verifies both with the token. The configurations differ in [store]; account, state_dir
and audit_dir are the same. Stop the daemon first, and run copy as the daemon's user. Then
start the daemon with the second configuration: from then on the original counts as an
older database.`,
		Example: `  sudo systemctl stop cmkd.service cmkd.socket
  sudo -u cmkd cmkctl store copy --from /etc/cmkd/config.toml --to /etc/cmkd/etcd.toml`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemon, err := findDaemon()
			if err != nil {
				return err
			}
			var said bytes.Buffer
			if err := runDaemon(cmd.Context(), daemon, from, "--copy-store", &said, &said, cmd.ErrOrStderr(), to); err != nil {
				return err
			}
			return p.PrintAs(cmd.OutOrStdout(), copied{from, to}, func(out io.Writer) error {
				_, err := fmt.Fprintf(out, "The database of %s is copied, and verifies: use %s from now on.\n", from, to)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "configuration `FILE` of the database to copy")
	cmd.Flags().StringVar(&to, "to", "", "configuration `FILE` of the empty database")
	p.RegisterFormat(cmd)
	_ = cmd.MarkFlagRequired("from") // fails only for a flag that is not there
	_ = cmd.MarkFlagRequired("to")
	return cmd
}
