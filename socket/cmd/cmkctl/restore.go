package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/cmd/cmkctl/internal/operate"
	"cmkd/socket/operatorapi"
)

// restorePlan is what a restore would change.
type restorePlan operatorapi.RestorePlan

func newRestore() *cobra.Command {
	var config string
	var all bool
	var p cli.Printer
	var yes cli.Confirmation
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of the daemon's database",
		Long: `Restore has the token verify the backup, shows which rows it would add, change and
remove, and asks. Nothing has changed before, and nothing is changed by halves: if it is
interrupted, there is the old database or the new one. The daemon must not run; run
restore as its user, so that the files belong to it. A database that cannot be read is
kept under another name.

An older state is not served just because it was restored: the daemon starts, refuses
cryptography and changes, and waits for "cmkctl accept-state". Only a backup of the epoch
that has not ended yet (the daemon was killed, and has not started since) is served at
once, as a copy of the database would be. What was revoked after the
backup is valid again, and keys that were made after it are not in it: "cmkctl recover"
finds those in the token. The next start records the restore in the audit trail.

With -o json or yaml and without --yes it prints what it would change, and changes nothing.`,
		Example: `  sudo systemctl stop cmkd.service cmkd.socket
  sudo -u cmkd cmkctl restore /var/backups/cmkd/today.cmkd-backup
  sudo systemctl start cmkd.socket cmkd.service
  sudo cmkctl accept-state`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			if args[0] == "-" {
				return cli.Usagef("a backup is read twice: restore takes a file, not -")
			}
			if _, _, err := operate.ReadBackup(cmd, args[0]); err != nil {
				return unreadableBackup(err)
			}
			plan, err := planRestore(ctx, config, args[0], "")
			if err != nil {
				return err
			}
			if p.Output.Value == cli.AsTable {
				if err := plan.print(cmd.OutOrStdout(), all, !p.NoHeaders); err != nil {
					return err
				}
			}
			switch {
			case plan.Same, p.Output.Value != cli.AsTable && !yes.Yes:
				return p.PrintAs(cmd.OutOrStdout(), plan, func(io.Writer) error { return nil })
			}
			if err := yes.Ask("Replace the database"); err != nil {
				return err
			}
			done, err := planRestore(ctx, config, args[0], plan.Plan)
			if err != nil {
				return err
			}
			return p.PrintAs(cmd.OutOrStdout(), done, done.printDone)
		},
	}
	cmd.Flags().StringVar(&config, "config", filepath.Join(systemDir, "config.toml"), "configuration `file` of the daemon")
	cmd.Flags().BoolVar(&all, "all", false, "list every row that differs")
	yes.Register(cmd)
	p.Register(cmd)
	return cmd
}

// unreadableBackup says what to do about a backup that the user who restores may not read.
func unreadableBackup(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return cli.Inputf("%w: restore runs as the daemon's user, which must be able to read the backup; have root give it to that user (chown)", err)
}

// planRestore has cmkd compare, or carry out what it has shown.
func planRestore(ctx context.Context, config, file, accept string) (*restorePlan, error) {
	daemon, err := findDaemon()
	if err != nil {
		return nil, err
	}
	args := []string{file}
	if accept != "" {
		args = append(args, "--accept", accept)
	}
	var out, said bytes.Buffer
	if err := runDaemon(ctx, daemon, config, "--restore", &out, &said, io.Discard, args...); err != nil {
		return nil, restoreError(&said, err)
	}
	plan := &restorePlan{}
	if err := json.Unmarshal(out.Bytes(), plan); err != nil {
		return nil, fmt.Errorf("reading what cmkd says: %w", err)
	}
	return plan, nil
}

// restoreError is what cmkd said last, which is why it ended.
func restoreError(said *bytes.Buffer, err error) error {
	for line := range strings.Lines(said.String()) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "cmkd: "); ok {
			err = errors.New(text)
		}
	}
	return cli.WithStatus(cli.ExitFailed, err)
}

// shownRows is how many rows that differ are listed unless all are.
const shownRows = 50

func (r *restorePlan) print(out io.Writer, all, headers bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if headers {
		fmt.Fprintln(w, "STATE\tROWS\tCOMMIT\tTIME\tAUDIT RECORD")
	}
	for _, side := range []struct {
		name string
		of   *operatorapi.RestoreSide
	}{{"backup", &r.Backup}, {"database", &r.Present}} {
		at := "-"
		if !side.of.Time.IsZero() {
			at = side.of.Time.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%d\n", side.name, side.of.Rows, side.of.Sequence, at, side.of.Audit)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(out, "warning: %s\n", cli.Quote(text))
	}
	switch {
	case r.Damage != "":
		fmt.Fprintf(out, "the database cannot be read, and will be kept under another name: %s\n", cli.Quote(r.Damage))
		return nil
	case r.Same:
		fmt.Fprintln(out, "the database is as the backup has it: there is nothing to restore")
		return nil
	}
	shown := r.Differences
	if !all {
		shown = shown[:min(len(shown), shownRows)]
	}
	fmt.Fprintf(out, "rows of the database that the restore changes: %s\n", operate.CountDifferences(r.Differences))
	for _, d := range shown {
		fmt.Fprintf(w, "%s\t%s\t%s\n", cli.Quote(d.Kind), cli.Quote(d.Table), cli.Quote(d.Row))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if rest := len(r.Differences) - len(shown); rest > 0 {
		fmt.Fprintf(out, "and %d more: --all lists them\n", rest)
	}
	return nil
}

func (r *restorePlan) printDone(out io.Writer) error {
	for _, text := range r.Warnings {
		fmt.Fprintf(out, "note: %s\n", cli.Quote(text))
	}
	fmt.Fprintln(out, "restored. Start cmkd, and see cmkctl accept-state and cmkctl recover")
	return nil
}
