package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cmkd/socket/client"
	"cmkd/socket/client/envelope"
	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newRewrap(s *cli.Service) *cobra.Command {
	var keys []string
	var o envelope.Options
	f := transformFlags{context: cli.Pairs{}}
	cmd := &cobra.Command{
		Use:   "rewrap --key KEY FILE",
		Short: "Move a sealed file to other keys",
		Long: `Rewrap seals the content of FILE again, under each KEY instead of the keys that
it names, and with the same encryption context. The plaintext does not leave the program.
FILE is replaced in one step once the new file is complete and on disk, which needs space
for both. If FILE was changed, replaced or removed meanwhile, it is left so (exit status 7).
A FILE that cannot be replaced in one step, because it has hard links, another owner, is a
mount point or is in a folder that you may not write to, is refused: use --out.

The content is encrypted again, under a new data key: anyone who has opened the file
before and kept the data key cannot read the new one.

Files in cmkctl's earlier format are converted to the message format of the AWS Encryption
SDK; for such a file, --context must give the encryption context.`,
		Example: `  cmkctl rewrap --key alias/backup-2027 dir.tar.sealed
  cmkctl rewrap --key alias/backup-2027 --out moved.sealed dir.tar.sealed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.inPlace = f.output == ""; f.inPlace {
				if args[0] == "-" {
					return cli.Usagef("rewrap replaces a file: name one, or use --out")
				}
				f.output = args[0]
			}
			o.Context = f.context
			return f.transform(cmd, args, s, rewrapping, func(ctx context.Context, c *client.EnvelopeClient, dst io.Writer, src io.Reader) (*envelope.Header, int64, error) {
				if err := cli.CheckKeys(ctx, c.Client, keys...); err != nil {
					return nil, 0, err
				}
				return rewrap(ctx, s, c, dst, src, keys, o)
			})
		},
	}
	cmd.Flags().StringArrayVarP(&keys, "key", "k", nil, cli.KeyUsage+" to seal under; repeatable")
	cmd.Flags().StringVar(&f.output, "out", "", "`file` to write instead of replacing FILE, - for standard output")
	cmd.Flags().VarP(f.context, "context", "c", "encryption context that FILE must have, "+cli.PairsUsage)
	cmd.Flags().BoolVar(&o.AllowUncommitted, "allow-uncommitted", false, "accept files of algorithm suites without key commitment")
	cmd.Flags().StringVar(&f.region, "region", cli.EnvironmentRegion(), "Region to seal in (default $AWS_REGION, $AWS_DEFAULT_REGION or the daemon's own); FILE is opened in the one that it names")
	f.registerAnswer(cmd)
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	return cmd
}

// rewrap seals what the envelope in src holds.
func rewrap(ctx context.Context, s *cli.Service, c *client.EnvelopeClient, dst io.Writer, src io.Reader, keys []string, o envelope.Options) (*envelope.Header, int64, error) {
	r, err := c.InNamedRegion().OpenReader(ctx, src, "", o)
	if err != nil {
		return nil, 0, wordOpening(s, err)
	}
	defer r.Close()
	next := envelope.Options{Context: map[string]string{}}
	if old := headerOf(r); old != nil {
		for name, value := range old.Context {
			if !strings.HasPrefix(name, envelope.ReservedPrefix) {
				next.Context[name] = value
			}
		}
		if old.Suite.Signs() {
			next.Suite = envelope.Signed
		}
	} else { // it does not hold its own
		next.Context = o.Context
	}
	header, n, err := seal(ctx, c, dst, r, keys, next)
	return header, n, wordOpening(s, err)
}
