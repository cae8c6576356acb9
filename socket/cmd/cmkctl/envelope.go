package main

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cmkd/socket/client"
	"cmkd/socket/client/envelope"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// transformFlags are common to seal and open.
type transformFlags struct {
	context cli.Pairs
	output  string
	region  string
	inPlace bool       // the output replaces the input
	answer  cli.Choice // what is printed of it
}

// What the progress bar says.
const (
	sealing    = "sealing"
	opening    = "opening"
	rewrapping = "rewrapping"
)

// transformation is what seal, open and rewrap do from src to dst. It returns the header of
// the sealed file, nil for one in the earlier format, and the length of the content in bytes.
type transformation func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) (*envelope.Header, int64, error)

// transformed is what they print with -o.
type transformed struct {
	File         string     `json:"file"`
	ContentBytes int64      `json:"contentBytes"`
	Header       *inspected `json:"header"` // null for a file in the earlier format
}

func (f *transformFlags) register(cmd *cobra.Command, contextUsage string) {
	f.context = cli.Pairs{}
	cmd.Flags().VarP(f.context, "context", "c", contextUsage)
	cmd.Flags().StringVar(&f.output, "out", "-", "`file` to write, - for standard output")
	f.registerAnswer(cmd)
}

func (f *transformFlags) registerAnswer(cmd *cobra.Command) {
	f.answer = cli.Choice{Of: []string{cli.AsJSON, cli.AsYAML}}
	cmd.Flags().VarP(&f.answer, "output", "o", "print what was written, in a `format`: json or yaml")
}

func newSeal(s *cli.Service) *cobra.Command {
	var f transformFlags
	var keys []string
	var sign bool
	cmd := &cobra.Command{
		Use:   "seal --key KEY [FILE]",
		Short: "Encrypt a file under its own data key",
		Long: `Seal encrypts FILE, or standard input, with AES-256-GCM under a new data key
and puts the data key, encrypted under each KEY, in front: any one of them opens the file.
The file may have any size. It has the message format of the AWS Encryption SDK, which can
open it too.

The encryption context of --context is stored in the header in the clear, and bound to the
file: policies and the audit trail see it.

A file named by --out keeps its content until the new content is complete, and its
owner and mode. One with hard links or another owner, or in a folder that you may not write
to, is then written in place: if cmkctl is killed meanwhile, the only whole copy is in
.NAME.* beside it or in $TMPDIR/cmkctl-*. Seal cannot see that the command before a pipe has failed: let the shell
check ("set -o pipefail") and keep the previous file until it has.`,
		Example: `  tar c dir | cmkctl seal --key alias/backup -c host=db1 --out dir.tar.sealed
  cmkctl open dir.tar.sealed | tar x
  cmkctl seal -k alias/backup -k alias/escrow --out notes.sealed notes`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for name := range f.context {
				if strings.HasPrefix(name, envelope.ReservedPrefix) {
					return cli.Usagef("--context %s: names that begin with %s are the format's", cli.Quote(name), envelope.ReservedPrefix)
				}
			}
			o := envelope.Options{Context: f.context}
			if sign {
				o.Suite = envelope.Signed
			}
			return f.transform(cmd, args, s, sealing, func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) (*envelope.Header, int64, error) {
				if err := cli.CheckKeys(ctx, c.Client, keys...); err != nil {
					return nil, 0, err
				}
				return seal(ctx, c, dst, src, keys, o)
			})
		},
	}
	f.register(cmd, "encryption context, "+cli.PairsUsage)
	cmd.Flags().StringArrayVarP(&keys, "key", "k", nil, cli.KeyUsage+" to seal under; repeatable")
	cmd.Flags().BoolVar(&sign, "sign", false, "sign the file with a key created for it, so that those who can open it cannot alter it")
	cmd.Flags().StringVar(&f.region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	return cmd
}

// seal writes an envelope with the content of src. If that fails it is not complete.
func seal(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader, keys []string, o envelope.Options) (*envelope.Header, int64, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	w, err := c.SealWriter(ctx, dst, keys, o)
	if err != nil {
		return nil, 0, err
	}
	n, err := w.ReadFrom(src)
	if err != nil {
		giveUp(err)
		_ = w.Close() // returns err
		return nil, n, err
	}
	return w.Header, n, w.Close()
}

func newOpen(s *cli.Service) *cobra.Command {
	var f transformFlags
	var key string
	var o envelope.Options
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Decrypt a sealed file",
		Long: `Open decrypts FILE, or standard input: a file sealed with seal, or by another
program in the message format of the AWS Encryption SDK. With --context, the file's encryption context
must have those pairs.

A FILE that was altered or truncated gives an error and exit status 6. With --out
nothing is written then. A file that --out cannot replace (hard links, another owner, a
folder that you may not write to) is written in place once all of the plaintext is in
.NAME.* beside it or in $TMPDIR/cmkctl-*, which remains if cmkctl is killed. Standard output may already have received part of the content, or
all of it: that is authentic to the extent that its writer had the data key. A signature
(seal --sign) is at the end of FILE, so it does not yet cover what goes into a pipe. Use
--out, or discard the pipe's output unless open exits with 0.

A terminal is shown printable text only: for any other content use --out or a pipe.

Files in cmkctl's earlier format do not contain their encryption context: --context must
give all of it.`,
		Example: `  cmkctl open -c host=db1 --out dir.tar dir.tar.sealed
  cmkctl open dir.tar.sealed | tar x`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Context = f.context
			return f.transform(cmd, args, s, opening, func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) (*envelope.Header, int64, error) {
				if err := cli.CheckKeys(ctx, c.Client, key); err != nil {
					return nil, 0, err
				}
				r, err := c.OpenReader(ctx, src, key, o)
				if err != nil {
					return nil, 0, wordOpening(s, err)
				}
				defer r.Close()
				n, err := io.Copy(dst, r)
				return headerOf(r), n, wordOpening(s, err)
			})
		},
	}
	f.register(cmd, "encryption context that it must have, "+cli.PairsUsage)
	cmd.Flags().StringVarP(&key, "key", "k", "", cli.KeyUsage+" that must open the file (default any that it names)")
	cmd.Flags().BoolVar(&o.AllowUncommitted, "allow-uncommitted", false, "open files of algorithm suites without key commitment: whoever sealed them can have made them open differently under another key")
	cmd.Flags().StringVar(&f.region, "region", "", "Region whose multi-Region keys to use (default the one that FILE names)")
	return cmd
}

// headerOf returns the header of what r reads, nil in the earlier format.
func headerOf(r io.Reader) *envelope.Header {
	if message, ok := r.(*envelope.Reader); ok {
		return message.Header
	}
	return nil
}

// transform runs work from the input that args name to the output.
func (f *transformFlags) transform(cmd *cobra.Command, args []string, s *cli.Service, what string, work transformation) error {
	if f.answer.Value != "" && f.output == "-" {
		return cli.Usagef("-o prints to standard output: name a file for the content with --out")
	}
	ctx, stop := cli.UntilSignal(cmd.Context())
	defer stop()
	// A second signal ends even what does not look at ctx, unless there is something to undo.
	undoing := context.AfterFunc(ctx, stop)
	c, err := client.NewEnvelopeClient(s.Path(), client.WithRegion(f.region), client.WithTimeout(s.Timeout))
	if err != nil {
		return err
	}
	in, err := cli.OpenInput(cmd, args)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := cli.OpenOutputOr(cmd, f.output)
	if err != nil {
		return cli.WithStatus(cli.ExitInput, err)
	}
	defer out.Close()
	if !out.Direct() && !undoing() {
		return context.Cause(ctx)
	}
	if f.inPlace || what == rewrapping && out.Is(in) {
		if err := out.Replaces(in); err != nil {
			return err
		}
	}
	src := in.Until(ctx, what == sealing)
	if bar := progress(in, what); bar != nil {
		defer bar.Close() //nolint:errcheck // it is decoration
		src = io.TeeReader(src, bar)
	}
	result := transformed{File: f.output}
	err = out.Write(ctx, func(dst io.Writer) error {
		if file, ok := dst.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
			if what != opening {
				return cli.Usagef("refusing to write binary data to a terminal; use --out")
			}
			text := &cli.TextWriter{To: file}
			if _, _, err := work(ctx, c, text, src); err != nil {
				return s.Explain(err)
			}
			return text.Close()
		}
		header, n, err := work(ctx, c, dst, src)
		if header != nil {
			described := describe(header)
			result.Header = &described
		}
		result.ContentBytes = n
		return s.Explain(err)
	})
	if err != nil || f.answer.Value == "" {
		return err
	}
	p := cli.Printer{Output: f.answer}
	return p.PrintAs(cmd.OutOrStdout(), result, nil)
}
