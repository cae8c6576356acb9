package keys

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

// aliasPattern is that of CreateAlias, without the names of managed keys.
var aliasPattern = regexp.MustCompile(`^alias/[a-zA-Z0-9:/_-]{1,250}$`)

func NewKey(s *cli.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Create and manage keys",
		Args:  cli.NoArgs,
	}
	cmd.AddCommand(
		newKeyCancelDelete(s),
		newKeyCreate(s),
		newKeyDelete(s),
		newKeyDeleteMaterial(s),
		newKeyDescribe(s),
		newKeyDisable(s),
		newKeyEnable(s),
		newKeyExportParameters(s),
		newKeyImport(s),
		newKeyList(s),
		newKeyRotate(s),
		newKeyRotation(s),
		newKeyShow(s),
		newKeyTag(s),
	)
	return cmd
}

// keyCreation is what key create is told.
type keyCreation struct {
	alias, description, spec, usage, region string
	admins, users                           []string
	origin, store                           string
	multiRegion                             bool
	tags                                    cli.Pairs
}

func newKeyCreate(s *cli.Service) *cobra.Command {
	k := &keyCreation{tags: cli.Pairs{}}
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a key with administrators and users, and print its ARN",
		Long: `Create generates a key with the key policy that the AWS console writes: the
account, the administrators, who may manage the key but not use it, and the users, who may
use it. Without either, only the account has access.

` + principalsHelp,
		Example: "  cmkctl key create --alias app --description 'of the app' --admin ops --user group:app",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			made, err := k.create(cmd.Context(), s)
			if made == nil {
				return err
			}
			return errors.Join(err, p.Print(cmd.OutOrStdout(), made.KeyMetadata, cli.Table{Rows: [][]string{{aws.ToString(made.KeyMetadata.Arn)}}}))
		},
	}
	f := cmd.Flags()
	f.StringVar(&k.alias, "alias", "", "`name` of an alias for the key")
	f.StringVar(&k.description, "description", "", "`text` that describes the key")
	f.StringVar(&k.spec, "spec", "SYMMETRIC_DEFAULT", "key `spec`")
	f.StringVar(&k.usage, "usage", "", "key `usage`; required except for symmetric encryption keys")
	f.StringArrayVar(&k.admins, "admin", nil, "`principal` that may manage the key; may be repeated")
	f.StringArrayVar(&k.users, "user", nil, "`principal` that may use the key; may be repeated")
	f.StringVar(&k.origin, "origin", "", "`origin` of the material: AWS_KMS (the default), EXTERNAL to import it, AWS_CLOUDHSM for a custom key store")
	f.StringVar(&k.store, "store", "", "`ID` of the custom key store that holds the key")
	f.BoolVar(&k.multiRegion, "multi-region", false, "create a multi-Region key, which can be replicated")
	f.Var(k.tags, "tag", "tag, "+cli.PairsUsage)
	f.StringVar(&k.region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	p.Register(cmd)
	return cmd
}

// create makes the key, then its alias. If the alias fails the key is deleted
// again; if that fails too, it is returned with the error.
func (k *keyCreation) create(ctx context.Context, s *cli.Service) (made *kms.CreateKeyOutput, err error) {
	if name := k.aliasName(); k.alias != "" && !aliasPattern.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return nil, cli.Inputf("no key was created: %q cannot be an alias: want up to 250 letters, digits and the characters :/_- and no aws/ at the beginning", k.alias)
	}
	question := operatorapi.KeyPolicyRequest{Admins: k.admins, Users: k.users, KeySpec: k.spec, KeyUsage: k.usage}
	var policy operatorapi.KeyPolicy
	if err := cli.AskExactly(ctx, s, operatorapi.MakeKeyPolicy.Path, &question, &policy); err != nil {
		return nil, fmt.Errorf("writing the key policy: %w", err)
	}
	c := s.KMS(k.region)
	if err := k.checkAlias(ctx, c); err != nil {
		return nil, s.Explain(err)
	}
	in := &kms.CreateKeyInput{
		Description: cli.OrNil(k.description), KeySpec: types.KeySpec(k.spec), KeyUsage: types.KeyUsageType(k.usage),
		Policy: aws.String(policy.Policy), Origin: types.OriginType(k.origin), CustomKeyStoreId: cli.OrNil(k.store),
	}
	if k.multiRegion {
		in.MultiRegion = aws.Bool(true)
	}
	for _, name := range slices.Sorted(maps.Keys(k.tags)) {
		in.Tags = append(in.Tags, types.Tag{TagKey: aws.String(name), TagValue: aws.String(k.tags[name])})
	}
	if made, err = c.CreateKey(ctx, in, cli.Once); err != nil {
		return nil, fmt.Errorf("CreateKey: %w", s.Explain(err))
	}
	if k.alias == "" {
		return made, nil
	}
	_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(k.aliasName()), TargetKeyId: made.KeyMetadata.KeyId})
	if err == nil || k.named(ctx, c, made) {
		return made, nil
	}
	return k.takeBack(ctx, s, c, made, err)
}

// named reports whether the alias is that of the new key: the answer that said so was lost, and the
// second try found it taken.
func (k *keyCreation) named(ctx context.Context, c *kms.Client, made *kms.CreateKeyOutput) bool {
	answer, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(k.aliasName())})
	return err == nil && aws.ToString(answer.KeyMetadata.Arn) == aws.ToString(made.KeyMetadata.Arn)
}

func (k *keyCreation) aliasName() string { return aliasName(k.alias) }

// aliasName is the name with the prefix that all aliases have.
func aliasName(name string) string {
	return cli.AliasPrefix + strings.TrimPrefix(name, cli.AliasPrefix)
}

// checkAlias refuses an alias that is taken before there is a key for it. Who may
// not ask is told by CreateAlias.
func (k *keyCreation) checkAlias(ctx context.Context, c *kms.Client) error {
	if k.alias == "" {
		return nil
	}
	by, err := cli.AliasTarget(ctx, c, k.aliasName())
	if err != nil || by == "" {
		return err
	}
	return cli.Exit(cli.ExitState, fmt.Errorf("no key was created: %s is already the alias of %s", k.aliasName(), by))
}

// takeBackDays is the shortest waiting period of a deletion.
const takeBackDays = 7

// takeBack schedules the deletion of the key that could not have its alias:
// nothing has been encrypted under it. If that fails too, it is returned.
func (k *keyCreation) takeBack(ctx context.Context, s *cli.Service, c *kms.Client, made *kms.CreateKeyOutput, why error) (*kms.CreateKeyOutput, error) {
	in := &kms.ScheduleKeyDeletionInput{KeyId: made.KeyMetadata.KeyId, PendingWindowInDays: aws.Int32(takeBackDays)}
	if _, err := c.ScheduleKeyDeletion(ctx, in); err != nil {
		return made, fmt.Errorf("the key was created, but its alias was not: %w; nor can the key's deletion be scheduled: %w", s.Explain(why), s.Explain(err))
	}
	return nil, fmt.Errorf("the alias was not created: %w; the new key %s will be deleted in %d days", s.Explain(why), aws.ToString(made.KeyMetadata.Arn), takeBackDays)
}
