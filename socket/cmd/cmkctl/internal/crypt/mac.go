package crypt

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// authenticating is what mac and verify-mac have in common.
type authenticating struct {
	useFlags
	algorithm string
	in        cli.BlobIn
}

func (f *authenticating) register(cmd *cobra.Command) {
	f.registerRequired(cmd)
	cmd.Flags().StringVar(&f.algorithm, "algorithm", "", "MAC `algorithm` (default that of the key, found with DescribeKey)")
	f.in.Register(cmd, "in-format", "message")
}

// prepare completes the algorithm and reads the message, which the caller wipes.
func (f *authenticating) prepare(ctx context.Context, cmd *cobra.Command, args []string, c *kms.Client) (message []byte, err error) {
	if f.algorithm == "" {
		if f.algorithm, err = defaultAlgorithm(ctx, c, f.key, macAlgorithms); err != nil {
			return nil, err
		}
	}
	return f.in.Read(cmd, args, maxMessage, "message")
}

func NewMAC(s *cli.Service) *cobra.Command {
	var (
		f   authenticating
		out cli.BlobOut
	)
	cmd := &cobra.Command{
		Use:   "mac --key KEY [FILE]",
		Short: "Compute a message authentication code (HMAC)",
		Long: `Mac writes the HMAC of FILE, or of standard input, of 1 to 4096 bytes. For longer
messages, authenticate the digest.`,
		Example: `  cmkctl mac -k alias/tokens --format hex message
  sha256sum <large | cmkctl mac -k alias/tokens --out large.mac`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return out.Produce(cmd, s, func(ctx context.Context) ([]byte, any, error) {
				c, err := f.kms(ctx, s)
				if err != nil {
					return nil, nil, err
				}
				message, err := f.prepare(ctx, cmd, args, c)
				if err != nil {
					return nil, nil, err
				}
				defer clear(message)
				answer, err := c.GenerateMac(ctx, &kms.GenerateMacInput{
					KeyId: aws.String(f.key), Message: message, MacAlgorithm: types.MacAlgorithmSpec(f.algorithm), GrantTokens: f.tokens,
				})
				if err != nil {
					return nil, nil, err
				}
				return answer.Mac, answer, nil
			})
		},
	}
	f.register(cmd)
	out.Register(cmd, "MAC")
	return cmd
}

func NewVerifyMAC(s *cli.Service) *cobra.Command {
	var (
		f      authenticating
		given  cli.BlobIn
		path   string
		answer cli.Printer
	)
	cmd := &cobra.Command{
		Use:     "verify-mac --key KEY --mac FILE [FILE]",
		Short:   "Verify a message authentication code; exit with 1 if it does not verify",
		Example: `  cmkctl verify-mac -k alias/tokens --mac message.mac message`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if path == "-" && (len(args) == 0 || args[0] == "-") {
				return cli.Usagef("the message and the MAC cannot both be standard input")
			}
			mac, err := given.ReadFile(cmd, path, maxSignature, "MAC")
			if err != nil {
				return err
			}
			c, err := f.kms(cmd.Context(), s)
			if err != nil {
				return s.Explain(err)
			}
			message, err := f.prepare(cmd.Context(), cmd, args, c)
			if err != nil {
				return s.Explain(err)
			}
			defer clear(message)
			valid, err := c.VerifyMac(cmd.Context(), &kms.VerifyMacInput{
				KeyId: aws.String(f.key), Message: message, Mac: mac, MacAlgorithm: types.MacAlgorithmSpec(f.algorithm), GrantTokens: f.tokens,
			})
			if _, not := errors.AsType[*types.KMSInvalidMacException](err); not {
				return cli.Exit(cli.ExitFailed, fmt.Errorf("the MAC does not verify with %s and %s", f.key, f.algorithm))
			}
			if err != nil {
				return s.Explain(err)
			}
			return answer.Print(cmd.OutOrStdout(), valid, cli.Table{Rows: [][]string{{"valid", f.algorithm, aws.ToString(valid.KeyId)}}})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&path, "mac", "", "`file` with the MAC, - for standard input")
	_ = cmd.MarkFlagRequired("mac") // fails only for a flag that is not there
	given.Register(cmd, "mac-format", "MAC")
	answer.Register(cmd)
	return cmd
}
