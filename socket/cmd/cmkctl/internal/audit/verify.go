package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"cmkd/daemon/audit"
	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// verifiedTrail is what was found in an audit trail.
type verifiedTrail operatorapi.VerifiedTrail

// verification is that with how long it took.
type verification struct {
	operatorapi.VerifiedTrail

	Seconds          float64 `json:"seconds"`
	RecordsPerSecond float64 `json:"recordsPerSecond"`
}

func newAuditVerify(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var o audit.OfflineOptions
	var dirs []string
	cmd := &cobra.Command{
		Use:   "verify [--dir FOLDER... --public-key FILE...]",
		Short: "Verify the whole audit trail: the chain and every signature",
		Long: `Verify makes the daemon read its whole audit trail and verify the hash chain, and
every checkpoint with the key in the token. If something is wrong, verify exits with 1,
and the daemon performs no cryptography and signs nothing until an operator runs cmkctl
accept-state. A long trail needs a longer --timeout than the default.

With --dir it verifies the files in a folder, without a daemon, with the public keys
that the daemon leaves beside its trail (audit-key-*.pem; use copies that nobody who can
write the trail can change). Only a record kept elsewhere shows that the end was cut off:
--head is the last record that an earlier run printed, --at-least its number.

Daemons that have one database have a trail each, with the name of the node in every record:
--dir may be repeated, and each trail is verified on its own.

An empty trail and one without a signature do not verify.`,
		Example: `  cmkctl audit verify --timeout 10m
  cmkctl audit verify -o json | jq -r '"\(.last):\(.hash)"'
  cmkctl audit verify --dir /srv/copy --public-key audit-key-1f2e.pem --at-least 104200`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(dirs) > 1 {
				return verifyTrails(cmd, &p, dirs, o)
			}
			if len(dirs) == 0 {
				for _, flag := range []string{"public-key", "chain-only", "head", "after", "max-unsigned-records", "max-unsigned-age"} {
					if cmd.Flags().Changed(flag) {
						return cli.Usagef("--%s is for the files that --dir names", flag)
					}
				}
			}
			var v verification
			began := time.Now()
			var err error
			if len(dirs) > 0 {
				err = v.offline(dirs[0], o)
			} else if err = p.Ask(cmd.Context(), s, operatorapi.VerifyTrail.Path, operatorapi.None{}, &v.VerifiedTrail); err == nil {
				err = v.judge(&o)
			}
			if exit, ok := errors.AsType[*cli.ExitError](err); ok && exit.Status != cli.ExitFailed || v.Records == 0 && err != nil {
				return err
			}
			v.Seconds = time.Since(began).Seconds()
			v.RecordsPerSecond = float64(v.Records) / v.Seconds
			table := func(out io.Writer) error {
				v.print(out)
				return nil
			}
			return errors.Join(err, p.PrintAs(cmd.OutOrStdout(), &v, table))
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&dirs, "dir", nil, "verify the files in this `folder`, without a daemon; may be repeated")
	flags.StringArrayVar(&o.KeyFiles, "public-key", nil, "PEM `file` with a public key of the trail, under the name that the daemon gave it; may be repeated")
	flags.BoolVar(&o.ChainOnly, "chain-only", false, "verify the hash chain without any public key: no proof against anyone who can write the trail")
	flags.StringVar(&o.Head, "head", "", "a `record` that the trail must have, SEQUENCE:HASH")
	flags.Uint64Var(&o.AtLeast, "at-least", 0, "the trail must have the record with the sequence number `n`, or a later one")
	flags.StringVar(&o.After, "after", "", "the `record` that the trail's first one follows, SEQUENCE:HASH")
	flags.Uint64Var(&o.Tail.Records, "max-unsigned-records", audit.DefaultUnsignedRecords, "at most `n` records at the end may be unsigned")
	flags.DurationVar(&o.Tail.Age, "max-unsigned-age", audit.DefaultUnsignedAge, "the unsigned records at the end may span so much `time`")
	p.RegisterFormat(cmd)
	return cmd
}

// trailOf is one of several trails.
type trailOf struct {
	Dir string `json:"dir"`
	operatorapi.VerifiedTrail
}

// verifyTrails verifies the trails of several daemons. One that does not verify does not keep
// the others from it.
func verifyTrails(cmd *cobra.Command, p *cli.Printer, dirs []string, o audit.OfflineOptions) error {
	if o.Head != "" || o.After != "" || o.AtLeast != 0 {
		return cli.Usagef("--head, --after and --at-least are of one trail: verify it alone")
	}
	var all []trailOf
	var errs []error
	for _, dir := range dirs {
		var v verification
		if err := v.offline(dir, o); err != nil {
			exit, ok := errors.AsType[*cli.ExitError](err)
			if !ok || exit.Status != cli.ExitFailed {
				return err
			}
			errs = append(errs, fmt.Errorf("%s: %w", dir, exit.Err))
		}
		all = append(all, trailOf{dir, v.VerifiedTrail})
	}
	table := func(out io.Writer) error {
		for i := range all {
			fmt.Fprintf(out, "%s:\n", all[i].Dir)
			(*verifiedTrail)(&all[i].VerifiedTrail).print(out)
		}
		return nil
	}
	err := p.PrintAs(cmd.OutOrStdout(), all, table)
	if len(errs) > 0 {
		return errors.Join(cli.Exit(cli.ExitFailed, errors.Join(errs...)), err)
	}
	return err
}

// offline verifies files.
func (v *verification) offline(dir string, o audit.OfflineOptions) error {
	r, err := audit.VerifyOffline(dir, o)
	v.VerifiedTrail = operatorapi.VerifiedTrail{
		Records: r.Records, Segments: r.Segments, First: r.First, Last: r.Last, Hash: hex.EncodeToString(r.Hash[:]),
		FirstTime: r.FirstTime, LastTime: r.LastTime, Checkpoints: r.Checkpoints, KeyID: r.KeyID, KeyChanges: r.KeyChanges,
		SignedThrough: r.SignedThrough, Unsigned: r.Unsigned, Outages: r.Outages, Repairs: r.Repairs,
	}
	if usage, ok := errors.AsType[*audit.UsageError](err); ok {
		status := cli.ExitUsage
		if errors.Is(err, audit.ErrKeyFile) {
			status = cli.ExitInput
		}
		return cli.Exit(status, fmt.Errorf("nothing was verified: %w", usage))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return trailError(dir, err)
	}
	if err != nil {
		v.Problem = err.Error()
		return cli.Exit(cli.ExitFailed, fmt.Errorf("the audit trail does not verify: %w", err))
	}
	return nil
}

// judge says whether what the daemon found is a trail that verifies.
func (v *verification) judge(o *audit.OfflineOptions) error {
	var problem string
	switch {
	case v.Problem != "":
		return cli.Exit(cli.ExitFailed, fmt.Errorf("the audit trail does not verify: %s; see cmkctl accept-state", v.Problem))
	case v.Records == 0:
		problem = "it is empty"
	case v.SignedThrough == 0:
		problem = "nothing of it is signed"
	case v.Last < o.AtLeast:
		problem = fmt.Sprintf("it ends with record %d, it should have record %d", v.Last, o.AtLeast)
	default:
		return nil
	}
	return cli.Exit(cli.ExitFailed, fmt.Errorf("the audit trail does not verify: %s", problem))
}

func (v *verification) print(out io.Writer) {
	if v.Records == 0 {
		return
	}
	(*verifiedTrail)(&v.VerifiedTrail).print(out)
	fmt.Fprintf(out, "verified in %.1f s, %.0f records/s\n", v.Seconds, v.RecordsPerSecond)
}

func (v *verifiedTrail) print(out io.Writer) {
	if v.Records == 0 {
		return
	}
	fmt.Fprintf(out, "%s, %d to %d, in %s\n", cli.Number(v.Records, "record"), v.First, v.Last, cli.Number(v.Segments, "segment"))
	if v.Problem == "" {
		fmt.Fprintf(out, "%s to %s\n", v.FirstTime.Format(time.RFC3339), v.LastTime.Format(time.RFC3339))
	}
	fmt.Fprintf(out, "last record %d:%s\n", v.Last, v.Hash)
	if v.SignedThrough == 0 {
		fmt.Fprintln(out, "no signature was verified")
		return
	}
	fmt.Fprintf(out, "signed through record %d, %s, key %s, %s\n", v.SignedThrough, cli.Number(v.Checkpoints, "checkpoint"), v.KeyID, cli.Number(v.KeyChanges, "key change"))
	if v.Problem == "" {
		fmt.Fprintf(out, "unsigned at the end: %s\n", cli.Number(v.Unsigned, "record"))
	}
	if v.Outages+v.Repairs > 0 {
		fmt.Fprintf(out, "for a time not writable: %d (AuditLogResumed), torn ends moved aside: %d (AuditLogRepaired)\n", v.Outages, v.Repairs)
	}
}

// pruning is what the daemon removed.
type pruning operatorapi.Pruning
