package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmkd/daemon/backup"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// madeBackup is what the command says of a backup that it has written.
type madeBackup struct {
	File    string        `json:"file"` // "-" for standard output
	SHA256  string        `json:"sha256"`
	Size    int64         `json:"size"` // in bytes
	Removed []string      `json:"removed,omitempty"`
	Backup  backup.Header `json:"backup"`
}

func NewBackup(s *cli.Service) *cobra.Command {
	var keep int
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back up the daemon's database while it runs",
		Long: `Backup writes everything that the daemon knows of its keys to FILE: policies, aliases,
grants, tags, and which object in the token is which key. It is of one moment, however
much changes meanwhile. A key in the token authenticates it, so that one that was altered
is refused. Key material is in the token only: without the token, and its own backup, this
one is worth nothing. Nor has it the configuration and the audit trail.

Its content is not secret, but tells names: FILE has mode 0600. A restore reads it as the
daemon's user, so make it as that user. If FILE is a folder, a
new file in it is named by the time, and --keep N removes all but the newest N, this one
among them. Files that are named by a time to come stay, with a warning.`,
		Example: `  sudo -u cmkd cmkctl backup /var/backups/cmkd/today.cmkd-backup
  sudo -u cmkd cmkctl backup /var/backups/cmkd --keep 30
  cmkctl backup - | ssh vault 'cat > cmkd.cmkd-backup'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := cli.UntilSignal(cmd.Context())
			defer stop()
			info, err := os.Stat(args[0])
			folder := err == nil && info.IsDir()
			if cmd.Flags().Changed("keep") && (!folder || keep < 1) {
				return cli.Usagef("--keep is of the backups in a folder that is there, and at least 1")
			}
			path := args[0]
			if folder {
				path = filepath.Join(path, "cmkd-"+time.Now().UTC().Format("20060102T150405Z")+backup.Suffix)
			}
			made := &madeBackup{File: path}
			if err := made.write(ctx, cmd, s); err != nil {
				return err
			}
			if folder && keep > 0 {
				var later []string
				if made.Removed, later, err = removeOld(args[0], filepath.Base(path), keep); err != nil {
					return err
				}
				for _, name := range later {
					cmd.PrintErrf("warning: %s is named by a time to come, when the clock was wrong: it stays and does not count\n", cli.Quote(name))
				}
			}
			out := cmd.OutOrStdout()
			if path == "-" {
				out = cmd.ErrOrStderr()
			}
			return p.PrintAs(out, made, made.print)
		},
	}
	cmd.AddCommand(newBackupVerify(s))
	cmd.Flags().IntVar(&keep, "keep", 0, "keep the newest `n` backups of a folder")
	p.RegisterFormat(cmd)
	return cmd
}

// Write has the daemon make the backup, and takes it only if it is whole.
func (m *madeBackup) write(ctx context.Context, cmd *cobra.Command, s *cli.Service) error {
	o, err := cli.OpenOutputOr(cmd, m.File)
	if err != nil {
		return cli.WithStatus(cli.ExitInput, err)
	}
	defer o.Close()
	answer, err := s.Stream(ctx, operatorapi.Backup.Method, operatorapi.Backup.Path, http.NoBody)
	if err != nil {
		return err
	}
	s.Bound(answer)
	defer answer.Body.Close()
	return o.Write(ctx, func(to io.Writer) error {
		found, err := backup.Read(io.TeeReader(answer.Body, to), func(*backup.Row) error { return nil })
		if errors.Is(err, context.DeadlineExceeded) {
			return s.Explain(err)
		}
		if errors.Is(err, backup.ErrDamaged) {
			return cli.Exit(cli.ExitUnavailable, fmt.Errorf("the daemon has not sent all of the backup, see its log: %w", err))
		}
		if err != nil {
			return err
		}
		m.SHA256, m.Size, m.Backup = fmt.Sprintf("%x", found.Seal.Sum), found.Size, found.Header
		return nil
	})
}

func (m *madeBackup) print(out io.Writer) error {
	fmt.Fprintf(out, "%s: %s, commit %d of %s, sha256 %s\n", cli.Quote(m.File), cli.Number(m.Backup.Rows, "row"),
		m.Backup.Sequence, m.Backup.Committed.Format(time.RFC3339), m.SHA256)
	for _, file := range m.Removed {
		fmt.Fprintf(out, "removed %s\n", cli.Quote(file))
	}
	return nil
}

// timedBackup is the name of a backup that was named by the time.
var timedBackup = regexp.MustCompile(`^cmkd-[0-9]{8}T[0-9]{6}Z` + regexp.QuoteMeta(backup.Suffix) + `$`)

// removeOld removes all but the newest backups of a folder, by their names. The one just made is
// the newest: later ones were named when the clock was wrong, and are returned.
func removeOld(folder, newest string, keep int) (removed, later []string, err error) {
	entries, err := os.ReadDir(folder) // sorted
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, e := range entries {
		switch name := e.Name(); {
		case !timedBackup.MatchString(name) || !e.Type().IsRegular():
		case name > newest:
			later = append(later, name)
		default:
			names = append(names, name)
		}
	}
	for _, name := range names[:max(0, len(names)-keep)] {
		path := filepath.Join(folder, name)
		if err := os.Remove(path); err != nil {
			return removed, later, fmt.Errorf("removing an old backup: %w", err)
		}
		removed = append(removed, path)
	}
	return removed, later, nil
}

// verifiedBackup is what backup verify says of a backup.
type verifiedBackup struct {
	File    string        `json:"file"`
	SHA256  string        `json:"sha256"`
	Size    int64         `json:"size"`
	Backup  backup.Header `json:"backup"`
	Problem string        `json:"problem,omitempty"`
}

func newBackupVerify(s *cli.Service) *cobra.Command {
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a backup: is it whole, and made with the daemon's token?",
		Long: `Verify reads all of a backup, compares its sum, and has the running daemon ask the token
whether the MAC is its own. It changes nothing. Where no daemon runs, "cmkctl restore"
verifies in the same way before it shows what it would change.`,
		Example: `  sudo -u cmkd cmkctl backup verify /var/backups/cmkd/today.cmkd-backup
  cmkctl backup verify today.cmkd-backup -o json | jq .backup.committed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, seal, err := ReadBackup(cmd, args[0])
			if err != nil {
				return err
			}
			var answer operatorapi.VerifiedBackup
			in := &operatorapi.BackupSeal{Key: v.Backup.Key, Token: v.Backup.Token, Serial: v.Backup.Serial, SHA256: v.SHA256, MAC: fmt.Sprintf("%x", seal.MAC)}
			if err := p.Ask(cmd.Context(), s, operatorapi.VerifyBackup.Path, in, &answer); err != nil {
				return err
			}
			v.Problem = answer.Problem
			if err := p.PrintAs(cmd.OutOrStdout(), v, v.print); err != nil {
				return err
			}
			if v.Problem != "" {
				return &cli.ExitError{Status: cli.ExitFailed}
			}
			return nil
		},
	}
	p.RegisterFormat(cmd)
	return cmd
}

// ReadBackup reads a backup to its end.
func ReadBackup(cmd *cobra.Command, path string) (*verifiedBackup, *backup.Seal, error) {
	in, err := cli.OpenInput(cmd, []string{path})
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	found, err := backup.Read(in.Src, func(*backup.Row) error { return nil })
	if err != nil {
		return nil, nil, cli.Inputf("%s: %w", path, err)
	}
	return &verifiedBackup{File: path, SHA256: fmt.Sprintf("%x", found.Seal.Sum), Size: found.Size, Backup: found.Header}, &found.Seal, nil
}

func (v *verifiedBackup) print(out io.Writer) error {
	h := &v.Backup
	if v.Problem != "" {
		fmt.Fprintf(out, "%s does not verify: %s\n", cli.Quote(v.File), cli.Quote(v.Problem))
		return nil
	}
	fmt.Fprintf(out, "%s verifies\n", cli.Quote(v.File))
	fmt.Fprintf(out, "account %s, token %s (serial number %s), made %s by cmkd %s\n", h.Account, cli.Quote(h.Token), cli.Quote(h.Serial), h.Created.Format(time.RFC3339), cli.Quote(h.Version))
	fmt.Fprintf(out, "%s, commit %d of %s, audit trail up to record %d\n", cli.Number(h.Rows, "row"), h.Sequence, h.Committed.Format(time.RFC3339), h.AuditSequence)
	return nil
}

// differenceKinds are what a restore does to rows, as people are told.
var differenceKinds = []string{"added", "changed", "removed"}

// CountDifferences counts them by what is done.
func CountDifferences(list []operatorapi.Difference) string {
	var parts []string
	for _, kind := range differenceKinds {
		n := 0
		for _, d := range list {
			if d.Kind == kind {
				n++
			}
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, kind))
	}
	return strings.Join(slices.Clip(parts), ", ")
}
