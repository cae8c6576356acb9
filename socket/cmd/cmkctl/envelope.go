package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cmkd/socket/client"
)

// envelopeFlags are common to seal and open.
type envelopeFlags struct {
	key     string
	context pairs
	output  string
	region  string
}

// sealing and opening are what the progress bar says.
const (
	sealing = "sealing"
	opening = "opening"
)

// transformation is what seal and open do from src to dst.
type transformation func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) error

func (f *envelopeFlags) register(cmd *cobra.Command, keyUsage string) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", keyUsage)
	f.context = pairs{}
	cmd.Flags().VarP(f.context, "context", "c", "encryption context, `name=value`; repeatable")
	cmd.Flags().StringVarP(&f.output, "output", "o", "-", "`file` to write, - for standard output")
}

func newSeal(s *service) *cobra.Command {
	var f envelopeFlags
	cmd := &cobra.Command{
		Use:   "seal --key KEY [FILE]",
		Short: "Encrypt a file under a data key of its own",
		Long: `Seal encrypts FILE, or standard input, with AES-256-GCM under a new data key
and puts the data key, encrypted under KEY, in front. The file may be of any
length. Whoever opens it must be allowed to use KEY, and give the same
encryption context.

A file that --output names keeps its content until all of the new one is there,
and its owner and mode. Seal cannot see that the command before a pipe has failed:
have the shell look ("set -o pipefail") and keep the last file until it has.`,
		Example: `  tar c dir | cmkctl seal --key alias/backup -c host=db1 -o dir.tar.sealed
  cmkctl open -c host=db1 dir.tar.sealed | tar x`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.transform(cmd, args, s, sealing, func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) error {
				w, err := c.SealWriter(ctx, dst, f.key, f.context)
				if err != nil {
					return err
				}
				if _, err := io.Copy(w, src); err != nil {
					return err
				}
				return w.Close()
			})
		},
	}
	f.register(cmd, "key `ID`, ARN or alias to seal under")
	cmd.Flags().StringVar(&f.region, "region", environmentRegion(), regionUsage)
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	return cmd
}

func newOpen(s *service) *cobra.Command {
	var f envelopeFlags
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Decrypt what seal made",
		Long: `Open decrypts FILE, or standard input. A FILE that was altered or cut gives an
error: with --output nothing is written then, while on standard output a
beginning, itself authentic, may have been.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.transform(cmd, args, s, opening, func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) error {
				r, err := c.OpenReader(ctx, src, f.key, f.context)
				if err != nil {
					return wordOpening(err)
				}
				_, err = io.Copy(dst, r)
				return wordOpening(err)
			})
		},
	}
	f.register(cmd, "key `ID`, ARN or alias that it must be sealed under (default any)")
	cmd.Flags().StringVar(&f.region, "region", "", "Region of the key (default that which FILE names)")
	return cmd
}

// wordOpening says what an error of opening means for who opens: the service
// does not tell (AWS KMS neither), for who tries might learn from it.
func wordOpening(err error) error {
	var invalid *types.InvalidCiphertextException
	switch {
	case errors.As(err, &invalid):
		return errors.New("InvalidCiphertextException: it was sealed with another encryption context (--context), or the file was altered")
	case errors.Is(err, client.ErrEnvelope):
		return fmt.Errorf("%w: cmkctl seal has not made this, or it was altered or cut", err)
	default:
		return err
	}
}

// transform runs work from the input that args name to the output.
func (f *envelopeFlags) transform(cmd *cobra.Command, args []string, s *service, what string, work transformation) error {
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	// A second signal ends even what does not look at ctx.
	context.AfterFunc(ctx, stop)
	c, err := client.NewEnvelopeClient(s.path(), client.WithRegion(f.region), client.WithTimeout(s.timeout))
	if err != nil {
		return err
	}
	in, err := openInput(cmd, args)
	if err != nil {
		return err
	}
	defer in.close()
	out, err := f.openOutput(cmd)
	if err != nil {
		return err
	}
	defer out.close()
	src := in.until(ctx, what == sealing)
	if bar := progress(in, what); bar != nil {
		defer bar.Close() //nolint:errcheck // it is decoration
		src = io.TeeReader(src, bar)
	}
	return out.write(ctx, func(dst io.Writer) error {
		if file, ok := dst.(*os.File); ok && what == sealing && term.IsTerminal(int(file.Fd())) {
			return errors.New("refusing to write binary data to a terminal; use --output")
		}
		return s.explain(work(ctx, c, dst, src))
	})
}

// openOutput opens what --output names.
func (f *envelopeFlags) openOutput(cmd *cobra.Command) (*output, error) {
	if f.output != "-" {
		return openOutput(f.output)
	}
	stdout, ok := rawFile(cmd.OutOrStdout())
	if !ok {
		return nil, errors.New("standard output is not a file")
	}
	return &output{path: "standard output", direct: func() (*os.File, error) { return stdout, nil }}, nil
}
