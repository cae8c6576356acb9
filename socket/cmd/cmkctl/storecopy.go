package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
)

func newStoreCopy() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "copy --from FILE --to FILE",
		Short: "Copy the database of a stopped daemon, such as from SQLite into etcd",
		Long: `Copy copies the database that one configuration names into the empty one that the other
names, and has the token verify both. The two differ in [store]; account, state_dir and
audit_dir are the same. Stop the daemon first, and run it as the daemon's user. Start it with the second
configuration afterwards: the database that was copied counts as an older one from then on.`,
		Example: `  sudo systemctl stop cmkd.service cmkd.socket
  sudo -u cmkd cmkctl store copy --from /etc/cmkd/config.toml --to /etc/cmkd/etcd.toml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemon, err := findDaemon()
			if err != nil {
				return err
			}
			var said bytes.Buffer
			if err := runDaemon(cmd.Context(), daemon, from, "--copy-store", &said, &said, cmd.ErrOrStderr(), to); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "The database of %s is copied, and verifies: use %s from now on.\n", from, to)
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "configuration of the database that is copied: a `FILE`")
	cmd.Flags().StringVar(&to, "to", "", "configuration of the empty one: a `FILE`")
	_ = cmd.MarkFlagRequired("from") // fails only for a flag that is not there
	_ = cmd.MarkFlagRequired("to")
	return cmd
}
