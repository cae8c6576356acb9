package main

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newBridge(socket func() string) *cobra.Command {
	var (
		port   uint16
		region string
		id     string
		secret string
	)
	cmd := &cobra.Command{
		Use:   "bridge [flags] [-- COMMAND [ARGUMENT...]]",
		Short: "Let a stock AWS client use the daemon through a loopback port",
		Long: `Bridge listens on 127.0.0.1 with a credential made for this run, checks the
signature of each request (Signature Version 4) and forwards it to the daemon's
socket, where it is a request of yours.

With a COMMAND it runs it with AWS_ENDPOINT_URL_KMS, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_DEFAULT_REGION set, and exits with its
status. Without one it prints these variables as export lines and stays until
it gets a signal.

AWS CLI before 2.13 (1.29) does not know AWS_ENDPOINT_URL_KMS. Tell it the
endpoint with --endpoint-url, or it will send your call to AWS.`,
		Example: `  cmkctl bridge -- aws kms list-keys
  cmkctl bridge -- sh -c 'aws --endpoint-url "$AWS_ENDPOINT_URL_KMS" kms list-keys'
  cmkctl bridge > env & sleep 1; . ./env; aws kms list-keys; kill $!`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cred, err := chosenCredential(id, secret)
			if err != nil {
				return err
			}
			b, err := startBridge(cmd.Context(), socket(), port, cred)
			if err != nil {
				return err
			}
			defer b.stop()
			vars := awsVariables(b.endpoint, region, cred)
			if len(args) > 0 {
				return runChild(cmd, args, bridged(os.Environ(), vars))
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := writeExports(cmd.OutOrStdout(), vars); err != nil {
				return fmt.Errorf("printing the variables: %w", err)
			}
			return b.wait(ctx)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().Uint16Var(&port, "port", 0, "loopback `port` to listen on, 0 for any")
	cmd.Flags().StringVar(&region, "region", cmp.Or(environmentRegion(), firstRegion), "Region for the client")
	cmd.Flags().StringVar(&id, "access-key", "", "access key `ID` to accept (default a new one)")
	cmd.Flags().StringVar(&secret, "secret-key", "", "its `secret`; other users can see it in the process list")
	return cmd
}
