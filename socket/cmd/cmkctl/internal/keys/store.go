package keys

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// NewStore makes the command with what it groups, and more.
func NewStore(s *cli.Service, more ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Use additional tokens as custom key stores; copy the database",
		Args:  cli.NoArgs,
	}
	cmd.AddCommand(newStoreCreate(s), newStoreList(s), newStoreRename(s), newStoreConnect(s), newStoreDisconnect(s), newStoreDelete(s))
	cmd.AddCommand(more...)
	return cmd
}

// unusedPassword and unusedCertificate are members that the API wants for a custom key
// store and cmkd does not use: its tokens, and their PINs, are in its configuration.
const (
	unusedPassword    = "unused-by-cmkd"
	unusedCertificate = "unused by cmkd"
)

// changedStore is the answer for operations that answer with nothing.
type changedStore struct{ CustomKeyStoreId string }

func newStoreCreate(s *cli.Service) *cobra.Command {
	var cluster string
	return change{
		use: "create NAME --cluster ID", short: "Create a custom key store for an additional token",
		long: `Create sets up a custom key store for the token with this cluster_id in the
configuration, and prints its ID. Then run "cmkctl store connect" and "cmkctl key create
--store".`,
		example: `  STORE=$(cmkctl store create vault --cluster cluster-a2b3c4d5e6f)
  cmkctl store connect "$STORE"
  cmkctl key create --store "$STORE" --origin AWS_CLOUDHSM`,
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			answer, err := c.CreateCustomKeyStore(ctx, &kms.CreateCustomKeyStoreInput{
				CustomKeyStoreName: aws.String(args[0]), CloudHsmClusterId: aws.String(cluster),
				KeyStorePassword: aws.String(unusedPassword), TrustAnchorCertificate: aws.String(unusedCertificate),
			}, cli.Once)
			if err != nil {
				return nil, "", err
			}
			return answer, aws.ToString(answer.CustomKeyStoreId), nil
		},
	}.command(s, func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&cluster, "cluster", "", "cluster_id of the token in the configuration: an `ID`")
		_ = cmd.MarkFlagRequired("cluster") // fails only for a flag that is not there
	})
}

func newStoreList(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var region string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the custom key stores and their states",
		Example: "  cmkctl store list -o json",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pages := kms.NewDescribeCustomKeyStoresPaginator(s.KMS(region), &kms.DescribeCustomKeyStoresInput{})
			list, err := cli.Pages(cmd.Context(), pages.HasMorePages, pages.NextPage,
				func(page *kms.DescribeCustomKeyStoresOutput) []types.CustomKeyStoresListEntry {
					return page.CustomKeyStores
				})
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"STORE ID", "NAME", "CLUSTER", "STATE", "ERROR", "CREATED"}}
			for _, e := range list {
				t.Add(aws.ToString(e.CustomKeyStoreId), aws.ToString(e.CustomKeyStoreName), aws.ToString(e.CloudHsmClusterId),
					string(e.ConnectionState), string(e.ConnectionErrorCode), cli.Moment(e.CreationDate))
			}
			return p.Print(cmd.OutOrStdout(), list, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), "Region of the stores (default $AWS_REGION, $AWS_DEFAULT_REGION or the daemon's own)")
	return cmd
}

func newStoreRename(s *cli.Service) *cobra.Command {
	return change{
		use: "rename STORE-ID NAME", short: "Rename a custom key store", args: cobra.ExactArgs(2),
		example: "  cmkctl store rename \"$STORE\" archive",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.UpdateCustomKeyStore(ctx, &kms.UpdateCustomKeyStoreInput{CustomKeyStoreId: aws.String(args[0]), NewCustomKeyStoreName: aws.String(args[1])})
			return changedStore{args[0]}, args[0] + " is called " + args[1], err
		},
	}.command(s, nil)
}

func newStoreConnect(s *cli.Service) *cobra.Command {
	return change{
		use: "connect STORE-ID", short: "Connect a custom key store", example: "  cmkctl store connect \"$STORE\"",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.ConnectCustomKeyStore(ctx, &kms.ConnectCustomKeyStoreInput{CustomKeyStoreId: aws.String(args[0])})
			return changedStore{args[0]}, args[0] + " is connected", err
		},
	}.command(s, nil)
}

func newStoreDisconnect(s *cli.Service) *cobra.Command {
	return change{
		use: "disconnect STORE-ID", short: "Disconnect a custom key store: its keys are unavailable", example: "  cmkctl store disconnect \"$STORE\"",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.DisconnectCustomKeyStore(ctx, &kms.DisconnectCustomKeyStoreInput{CustomKeyStoreId: aws.String(args[0])})
			return changedStore{args[0]}, args[0] + " is disconnected", err
		},
	}.command(s, nil)
}

func newStoreDelete(s *cli.Service) *cobra.Command {
	return change{
		use: "delete STORE-ID", short: "Delete a custom key store that has no keys",
		long: `Delete removes a custom key store that is disconnected and has no keys. Its token
stays in the configuration, and can become a store again.`,
		example: "  cmkctl store delete \"$STORE\"",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.DeleteCustomKeyStore(ctx, &kms.DeleteCustomKeyStoreInput{CustomKeyStoreId: aws.String(args[0])})
			return changedStore{args[0]}, args[0] + " is deleted", err
		},
	}.command(s, nil)
}
