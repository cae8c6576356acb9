package keys

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func NewGrant(s *cli.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant",
		Short: "Let others use a key, for a limited time and purpose",
		Args:  cli.NoArgs,
	}
	cmd.AddCommand(newGrantCreate(s), newGrantList(s), newGrantRevoke(s), newGrantRetire(s))
	return cmd
}

func newGrantCreate(s *cli.Service) *cobra.Command {
	var (
		in         kms.CreateGrantInput
		key        string
		grantee    string
		retiring   string
		name       string
		operations []string
	)
	equals, subset := cli.Pairs{}, cli.Pairs{}
	return change{
		use: "create --key KEY --grantee PRINCIPAL --operation OPERATION", short: "Grant operations on a key", args: cli.NoArgs,
		long: `Create lets a principal (an ARN) perform some operations on a key, and prints the
ID of the grant. With --context-equals or --context-subset, calls must have that
encryption context. The grant ends when it is revoked, or retired by the
grantee or --retiring.`,
		example: `  cmkctl grant create -k alias/app --grantee arn:aws:iam::000000000000:user/app \
      --operation Decrypt --context-subset stage=prod`,
		work: func(ctx context.Context, c *kms.Client, _ []string) (any, string, error) {
			id, err := cli.ResolveKey(ctx, c, key)
			if err != nil {
				return nil, "", err
			}
			in.KeyId, in.GranteePrincipal = aws.String(id), aws.String(grantee)
			in.RetiringPrincipal, in.Name = cli.OrNil(retiring), cli.OrNil(name)
			for _, operation := range operations {
				in.Operations = append(in.Operations, types.GrantOperation(operation))
			}
			if len(equals)+len(subset) > 0 {
				in.Constraints = &types.GrantConstraints{}
				if len(equals) > 0 {
					in.Constraints.EncryptionContextEquals = equals
				}
				if len(subset) > 0 {
					in.Constraints.EncryptionContextSubset = subset
				}
			}
			answer, err := c.CreateGrant(ctx, &in, cli.Once)
			if err != nil {
				return nil, "", err
			}
			return answer, aws.ToString(answer.GrantId), nil
		},
	}.command(s, func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.StringVarP(&key, "key", "k", "", cli.KeyUsage)
		f.StringVar(&grantee, "grantee", "", "`ARN` of the principal who may use the key")
		f.StringVar(&retiring, "retiring", "", "`ARN` of a principal who may retire the grant")
		f.StringVar(&name, "name", "", "`name`: creating the same grant again returns the existing one")
		f.StringSliceVar(&operations, "operation", nil, "`operation` such as Encrypt or Decrypt; repeatable")
		f.Var(equals, "context-equals", "encryption context that calls must have, and no other, "+cli.PairsUsage)
		f.Var(subset, "context-subset", "encryption context that calls must include, "+cli.PairsUsage)
		cmd.MarkFlagsMutuallyExclusive("context-equals", "context-subset")
		for _, flag := range []string{"key", "grantee", "operation"} {
			_ = cmd.MarkFlagRequired(flag) // fails only for a flag that is not there
		}
	})
}

func newGrantList(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var key, retiring, region string
	cmd := &cobra.Command{
		Use:   "list --key KEY | --retiring PRINCIPAL",
		Short: "List the grants on a key, or those that a principal may retire",
		Example: `  cmkctl grant list -k alias/app
  cmkctl grant list --retiring arn:aws:iam::000000000000:user/app -o json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listGrants(cmd.Context(), s.KMS(region), key, retiring)
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"GRANT ID", "KEY", "GRANTEE", "OPERATIONS", "CONSTRAINTS", "RETIRING", "NAME", "CREATED"}}
			for _, g := range list {
				t.Add(aws.ToString(g.GrantId), keyIDOf(aws.ToString(g.KeyId)), aws.ToString(g.GranteePrincipal)+aws.ToString(g.GranteeServicePrincipal),
					strings.Join(cli.Texts(g.Operations), ","), constraintsText(g.Constraints), aws.ToString(g.RetiringPrincipal),
					aws.ToString(g.Name), cli.Moment(g.CreationDate))
			}
			return p.Print(cmd.OutOrStdout(), list, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVarP(&key, "key", "k", "", cli.KeyUsage)
	cmd.Flags().StringVar(&retiring, "retiring", "", "`ARN` of a principal")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	cmd.MarkFlagsMutuallyExclusive("key", "retiring")
	cmd.MarkFlagsOneRequired("key", "retiring")
	return cmd
}

func listGrants(ctx context.Context, c *kms.Client, key, retiring string) ([]types.GrantListEntry, error) {
	if key != "" {
		id, err := cli.ResolveKey(ctx, c, key)
		if err != nil {
			return nil, err
		}
		p := kms.NewListGrantsPaginator(c, &kms.ListGrantsInput{KeyId: aws.String(id)})
		return cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListGrantsOutput) []types.GrantListEntry { return page.Grants })
	}
	p := kms.NewListRetirableGrantsPaginator(c, &kms.ListRetirableGrantsInput{RetiringPrincipal: aws.String(retiring)})
	return cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListRetirableGrantsOutput) []types.GrantListEntry { return page.Grants })
}

// keyIDOf is the key ID in a key ARN.
func keyIDOf(arn string) string {
	if _, id, ok := strings.Cut(arn, ":key/"); ok {
		return id
	}
	return arn
}

func constraintsText(c *types.GrantConstraints) string {
	switch {
	case c == nil:
		return ""
	case len(c.EncryptionContextEquals) > 0:
		return "context is " + cli.Pairs(c.EncryptionContextEquals).String()
	case len(c.EncryptionContextSubset) > 0:
		return "context has " + cli.Pairs(c.EncryptionContextSubset).String()
	default:
		return aws.ToString(c.SourceArn)
	}
}

// changedGrant is the answer for operations that answer with nothing.
type changedGrant struct{ GrantId, KeyId string }

func newGrantRevoke(s *cli.Service) *cobra.Command {
	var key string
	return change{
		use: "revoke --key KEY GRANT-ID", short: "End a grant, as an administrator of the key",
		example: "  cmkctl grant revoke -k alias/app \"$GRANT\"",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			id, err := cli.ResolveKey(ctx, c, key)
			if err != nil {
				return nil, "", err
			}
			_, err = c.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: aws.String(id), GrantId: aws.String(args[0])})
			return changedGrant{args[0], key}, fmt.Sprintf("grant %s is revoked", args[0]), err
		},
	}.command(s, func(cmd *cobra.Command) {
		cmd.Flags().StringVarP(&key, "key", "k", "", cli.KeyUsage)
		_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	})
}

func newGrantRetire(s *cli.Service) *cobra.Command {
	var key string
	return change{
		use: "retire --key KEY GRANT-ID", short: "End a grant, as its grantee or retiring principal",
		long:    `Retire ends a grant that you no longer need. Name the key by its ARN if you may not describe it.`,
		example: `  cmkctl grant retire -k alias/app "$GRANT"`,
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			id, err := cli.ResolveKey(ctx, c, key)
			if err != nil {
				return nil, "", err
			}
			_, err = c.RetireGrant(ctx, &kms.RetireGrantInput{KeyId: aws.String(id), GrantId: aws.String(args[0])})
			return changedGrant{args[0], key}, fmt.Sprintf("grant %s is retired", args[0]), err
		},
	}.command(s, func(cmd *cobra.Command) {
		cmd.Flags().StringVarP(&key, "key", "k", "", cli.KeyUsage)
		_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	})
}
