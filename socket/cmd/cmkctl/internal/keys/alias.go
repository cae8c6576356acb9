package keys

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func NewAlias(s *cli.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alias",
		Short: "Manage aliases of keys",
		Args:  cli.NoArgs,
	}
	cmd.AddCommand(newAliasCreate(s), newAliasUpdate(s), newAliasDelete(s), newAliasList(s))
	return cmd
}

func newAliasCreate(s *cli.Service) *cobra.Command {
	return change{
		use: "create NAME KEY", short: "Give a key an alias", args: cobra.ExactArgs(2),
		long:    `Create adds an alias for a key. NAME may begin with alias/ or not.`,
		example: "  cmkctl alias create app 1234abcd-12ab-34cd-56ef-1234567890ab",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			name := aliasName(args[0])
			_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(name), TargetKeyId: aws.String(args[1])})
			return changedAlias{name, args[1]}, fmt.Sprintf("%s is %s", name, args[1]), err
		},
	}.command(s, nil)
}

// changedAlias is the answer for operations that answer with nothing.
type changedAlias struct{ AliasName, TargetKeyId string }

func newAliasUpdate(s *cli.Service) *cobra.Command {
	return change{
		use: "update ALIAS KEY", short: "Move an alias to another key", args: cobra.ExactArgs(2),
		long: `Update moves an alias to another key of the same kind. Existing ciphertexts name
the old key, and can still be decrypted.`,
		example: "  cmkctl alias update app 1234abcd-12ab-34cd-56ef-1234567890ab",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			name := aliasName(args[0])
			_, err := c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(name), TargetKeyId: aws.String(args[1])})
			return changedAlias{name, args[1]}, fmt.Sprintf("%s is %s", name, args[1]), err
		},
	}.command(s, nil)
}

func newAliasDelete(s *cli.Service) *cobra.Command {
	return change{
		use: "delete ALIAS", short: "Delete an alias; its key stays", example: "  cmkctl alias delete app",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			name := aliasName(args[0])
			_, err := c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String(name)})
			return changedAlias{AliasName: name}, name + " is deleted", err
		},
	}.command(s, nil)
}

func newAliasList(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var key, region string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the aliases, of one key or of all",
		Example: `  cmkctl alias list
  cmkctl alias list --key alias/app --no-headers`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := s.KMS(region)
			id, err := cli.ResolveKey(cmd.Context(), c, key)
			if err != nil {
				return s.Explain(err)
			}
			list, err := cli.ListAliases(cmd.Context(), c, id)
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"ALIAS", "KEY ID", "CREATED", "UPDATED"}}
			for _, a := range list {
				t.Add(aws.ToString(a.AliasName), aws.ToString(a.TargetKeyId), cli.Moment(a.CreationDate), cli.Moment(a.LastUpdatedDate))
			}
			return p.Print(cmd.OutOrStdout(), list, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVarP(&key, "key", "k", "", cli.KeyUsage+" (default all keys)")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	return cmd
}
