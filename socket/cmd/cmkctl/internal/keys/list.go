package keys

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// shownKey is a key as list and show print it.
type shownKey struct {
	*types.KeyMetadata

	Aliases   []string
	Tags      []types.Tag
	Rotation  *kms.GetKeyRotationStatusOutput
	LastUsage *types.KeyLastUsageData
}

// listTags lists the tags of a key.
func listTags(ctx context.Context, c *kms.Client, key string) ([]types.Tag, error) {
	p := kms.NewListResourceTagsPaginator(c, &kms.ListResourceTagsInput{KeyId: aws.String(key)})
	return cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListResourceTagsOutput) []types.Tag { return page.Tags })
}

// withheld takes away the errors of a caller who may not see something, and of keys
// that do not have it.
func withheld(err error) error {
	if cli.APICode(err, "AccessDeniedException", "UnsupportedOperationException", "KMSInvalidStateException") {
		return nil
	}
	return err
}

func newKeyList(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var region string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys with their aliases and states",
		Long: `List prints all keys of the Region. For keys that you may not describe, it shows
only the ID and the aliases.`,
		Example: `  cmkctl key list
  cmkctl key list -o json | jq -r '.[] | select(.KeyState == "Disabled") | .KeyId'`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := listKeys(cmd.Context(), s.KMS(region))
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"KEY ID", "ALIASES", "SPEC", "USAGE", "STATE", "DESCRIPTION"}}
			for _, k := range list {
				t.Add(aws.ToString(k.KeyId), strings.Join(k.Aliases, " "), string(k.KeySpec), string(k.KeyUsage), string(k.KeyState), aws.ToString(k.Description))
			}
			return p.Print(cmd.OutOrStdout(), list, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), "Region of the keys (default $AWS_REGION, $AWS_DEFAULT_REGION or the daemon's own)")
	return cmd
}

// listKeys lists all keys, each described if the caller may.
func listKeys(ctx context.Context, c *kms.Client) ([]shownKey, error) {
	p := kms.NewListKeysPaginator(c, &kms.ListKeysInput{})
	entries, err := cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListKeysOutput) []types.KeyListEntry { return page.Keys })
	if err != nil {
		return nil, err
	}
	aliases, err := cli.ListAliases(ctx, c, "")
	if err := withheld(err); err != nil {
		return nil, err
	}
	names := map[string][]string{}
	for _, a := range aliases {
		names[aws.ToString(a.TargetKeyId)] = append(names[aws.ToString(a.TargetKeyId)], aws.ToString(a.AliasName))
	}
	list := make([]shownKey, len(entries))
	g, ctx := errgroup.WithContext(ctx)
	const atOnce = 8
	g.SetLimit(atOnce)
	for i, e := range entries {
		list[i] = shownKey{KeyMetadata: &types.KeyMetadata{KeyId: e.KeyId, Arn: e.KeyArn}, Aliases: names[aws.ToString(e.KeyId)]}
		g.Go(func() error {
			answer, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: e.KeyId})
			if err == nil {
				list[i].KeyMetadata = answer.KeyMetadata
			}
			if cli.APICode(err, "NotFoundException") { // it was deleted since it was listed
				list[i].KeyMetadata = nil
				return nil
			}
			return withheld(err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(k shownKey) bool { return k.KeyMetadata == nil }), nil
}

func newKeyShow(s *cli.Service) *cobra.Command {
	var p cli.Printer
	var region string
	cmd := &cobra.Command{
		Use:   "show KEY",
		Short: "Show a key: its metadata, aliases, tags, rotation and last use",
		Long:  `Show describes a key. Parts that you may not see are left out.`,
		Example: `  cmkctl key show alias/app
  cmkctl key show alias/app -o json | jq -r .Arn`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := showKey(cmd.Context(), s.KMS(region), args[0])
			if err != nil {
				return s.Explain(err)
			}
			return p.Print(cmd.OutOrStdout(), k, k.table())
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	return cmd
}

func showKey(ctx context.Context, c *kms.Client, key string) (*shownKey, error) {
	if err := cli.CheckKeys(ctx, c, key); err != nil {
		return nil, err
	}
	described, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(key)})
	if err != nil {
		return nil, err
	}
	k := &shownKey{KeyMetadata: described.KeyMetadata}
	id := aws.ToString(k.KeyId)
	aliases, err := cli.ListAliases(ctx, c, id)
	if err := withheld(err); err != nil {
		return nil, err
	}
	for _, a := range aliases {
		k.Aliases = append(k.Aliases, aws.ToString(a.AliasName))
	}
	if k.Tags, err = listTags(ctx, c, id); withheld(err) != nil {
		return nil, err
	}
	if k.Rotation, err = c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: k.KeyId}); withheld(err) != nil {
		return nil, err
	}
	usage, err := c.GetKeyLastUsage(ctx, &kms.GetKeyLastUsageInput{KeyId: k.KeyId})
	if err := withheld(err); err != nil {
		return nil, err
	}
	if usage != nil {
		k.LastUsage = usage.KeyLastUsage
	}
	return k, nil
}

// Table has what is set, a property a row.
func (k *shownKey) table() cli.Table {
	var t cli.Table
	add := func(name, value string) {
		if value != "" {
			t.Add(name, value)
		}
	}
	add("key ID", aws.ToString(k.KeyId))
	add("ARN", aws.ToString(k.Arn))
	add("aliases", strings.Join(k.Aliases, " "))
	add("description", aws.ToString(k.Description))
	add("spec", string(k.KeySpec))
	add("usage", string(k.KeyUsage))
	add("state", string(k.KeyState))
	add("origin", string(k.Origin))
	add("manager", string(k.KeyManager))
	add("created", cli.Moment(k.CreationDate))
	add("deleted from", cli.Moment(k.DeletionDate))
	add("material expires", cli.Moment(k.ValidTo))
	add("key store", aws.ToString(k.CustomKeyStoreId))
	add("algorithms", strings.Join(algorithmsOf(k.KeyMetadata), " "))
	if r := k.MultiRegionConfiguration; r != nil {
		add("multi-Region", string(r.MultiRegionKeyType))
		add("primary", aws.ToString(r.PrimaryKey.Arn))
		for _, replica := range r.ReplicaKeys {
			add("replica", aws.ToString(replica.Arn))
		}
	}
	for _, tag := range k.Tags {
		add("tag", aws.ToString(tag.TagKey)+"="+aws.ToString(tag.TagValue))
	}
	if r := k.Rotation; r != nil {
		add("rotation", rotationText(r))
	}
	if u := k.LastUsage; u != nil {
		add("last used", strings.TrimSpace(fmt.Sprintf("%s %s", cli.Moment(u.Timestamp), u.Operation)))
	}
	return t
}

// algorithmsOf are those of the key's usage.
func algorithmsOf(m *types.KeyMetadata) []string {
	list := append(cli.Texts(m.EncryptionAlgorithms), cli.Texts(m.SigningAlgorithms)...)
	list = append(list, cli.Texts(m.MacAlgorithms)...)
	list = append(list, cli.Texts(m.KeyAgreementAlgorithms)...)
	return append(list, cli.Texts(m.EncapsulationAlgorithms)...)
}

// rotationText says when a key rotates.
func rotationText(r *kms.GetKeyRotationStatusOutput) string {
	if !r.KeyRotationEnabled {
		return "not automatic"
	}
	return fmt.Sprintf("every %d days, next %s", aws.ToInt32(r.RotationPeriodInDays), cli.Moment(r.NextRotationDate))
}
