package crypt

import (
	"context"
	"io"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// maxRandom is the most random bytes that one call returns.
const maxRandom = 1024

func NewRandom(s *cli.Service) *cobra.Command {
	var (
		out           cli.BlobOut
		store, region string
	)
	cmd := &cobra.Command{
		Use:   "random BYTES",
		Short: "Random bytes from the token's generator",
		Long: `Random prints BYTES random bytes from the token's generator. It requests 1024 at
a time; the audit trail records each call.`,
		Example: `  cmkctl random 32 --format hex
  cmkctl random 1048576 --out seed`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || n < 1 {
				return cli.Usagef("%q: want a number of bytes of at least 1", args[0])
			}
			c := s.KMS(region)
			ask := func(ctx context.Context, n int64) (*kms.GenerateRandomOutput, error) {
				return c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(int32(n)), CustomKeyStoreId: cli.OrNil(store)})
			}
			if n <= maxRandom {
				return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
					answer, err := ask(ctx, n)
					if err != nil {
						return nil, nil, err
					}
					return answer.Plaintext, answer, nil
				})
			}
			if out.Form.Value != cli.FormRaw || out.Answer.Value != "" {
				return cli.Usagef("more than %d bytes are written raw only", maxRandom)
			}
			return out.Stream(cmd, s, func(ctx context.Context, w io.Writer) error {
				for ; n > 0; n -= maxRandom {
					answer, err := ask(ctx, min(n, maxRandom))
					if err != nil {
						return err
					}
					_, err = w.Write(answer.Plaintext)
					clear(answer.Plaintext)
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "`ID` of a custom key store whose token generates them")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	out.Register(cmd, "random bytes")
	return cmd
}
