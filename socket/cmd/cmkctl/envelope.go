package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/smithy-go"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cmkd/socket/client"
)

// envelopeFlags are common to seal and open.
type envelopeFlags struct {
	key     string
	context map[string]string
	output  string
	region  string
}

func (f *envelopeFlags) register(cmd *cobra.Command, keyUsage string) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", keyUsage)
	cmd.Flags().StringToStringVarP(&f.context, "context", "c", nil, "encryption context, `name=value`; repeatable")
	cmd.Flags().StringVarP(&f.output, "output", "o", "-", "`file` to write, - for standard output")
	cmd.Flags().StringVar(&f.region, "region", environmentRegion(), "Region of the key (default the daemon's own)")
}

func newSeal(socket func() string) *cobra.Command {
	var f envelopeFlags
	cmd := &cobra.Command{
		Use:   "seal --key KEY [FILE]",
		Short: "Encrypt a file under a data key of its own",
		Long: `Seal encrypts FILE, or standard input, with AES-256-GCM under a new data key
and puts the data key, encrypted under KEY, in front. The file may be of any
length. Whoever opens it must be allowed to use KEY, and give the same
encryption context.`,
		Example: `  tar c dir | cmkctl seal --key alias/backup -c host=db1 -o dir.tar.sealed
  cmkctl open -c host=db1 dir.tar.sealed | tar x`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.transform(cmd, args, socket(), "sealing", func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) error {
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
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	return cmd
}

func newOpen(socket func() string) *cobra.Command {
	var f envelopeFlags
	cmd := &cobra.Command{
		Use:   "open [FILE]",
		Short: "Decrypt what seal made",
		Long: `Open decrypts FILE, or standard input. A FILE that was altered or cut gives an
error: with --output nothing is written then, while on standard output a
beginning, itself authentic, may have been.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.transform(cmd, args, socket(), "opening", func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) error {
				r, err := c.OpenReader(ctx, src, f.key, f.context)
				if err != nil {
					return err
				}
				_, err = io.Copy(dst, r)
				return err
			})
		},
	}
	f.register(cmd, "key `ID`, ARN or alias that it must be sealed under (default any)")
	return cmd
}

// transform runs work from the input that args name to the output.
func (f *envelopeFlags) transform(cmd *cobra.Command, args []string, socket, what string,
	work func(context.Context, *client.EnvelopeClient, io.Writer, io.Reader) error,
) error {
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	// A second signal ends even a read that waits for a terminal.
	context.AfterFunc(ctx, stop)
	c, err := client.NewEnvelopeClient(socket, client.WithRegion(f.region))
	if err != nil {
		return err
	}
	src, size, closeSrc, err := input(cmd, args)
	if err != nil {
		return err
	}
	defer closeSrc()
	// Reading ends with ctx, so that a signal leaves no half-written file.
	src = &contextReader{ctx: ctx, src: src}
	if bar := progress(size, what); bar != nil {
		defer bar.Close() //nolint:errcheck // it is decoration
		src = io.TeeReader(src, bar)
	}
	write := func(dst io.Writer) error { return brief(work(ctx, c, dst, src)) }
	if f.output != "-" {
		return writeFileAtomically(f.output, write)
	}
	if what == "sealing" && cmd.OutOrStdout() == os.Stdout && term.IsTerminal(int(os.Stdout.Fd())) {
		return errors.New("a sealed file is no text for a terminal: use --output")
	}
	return write(cmd.OutOrStdout())
}

// brief reduces an error of the SDK to what the service said.
func brief(err error) error {
	var apiErr smithy.APIError
	if !errors.As(err, &apiErr) {
		return err
	}
	return wordError(apiErr.ErrorCode(), apiErr.ErrorMessage())
}

// input opens the file that args name, or takes standard input. size is -1 if
// it is not known.
func input(cmd *cobra.Command, args []string) (src io.Reader, size int64, closeSrc func(), err error) {
	if len(args) == 0 || args[0] == "-" {
		return cmd.InOrStdin(), -1, func() {}, nil
	}
	file, err := os.Open(args[0])
	if err != nil {
		return nil, 0, nil, err
	}
	closeSrc = func() { _ = file.Close() }
	info, err := file.Stat()
	if err != nil {
		closeSrc()
		return nil, 0, nil, err
	}
	if info.IsDir() {
		closeSrc()
		return nil, 0, nil, fmt.Errorf("%s is a folder", args[0])
	}
	if !info.Mode().IsRegular() {
		return file, -1, closeSrc, nil
	}
	return file, info.Size(), closeSrc, nil
}

// worthABar is the size in bytes from which on a file takes long enough.
const worthABar = 64 << 20

// progress returns a bar on standard error, nil if nobody would see it.
func progress(size int64, what string) *progressbar.ProgressBar {
	if (size >= 0 && size < worthABar) || !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	return progressbar.DefaultBytes(size, what)
}

// contextReader is a reader that ends with its context, which belongs to the
// one call of transform.
type contextReader struct {
	ctx context.Context
	src io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.src.Read(p)
}
