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

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// change is a command that changes one thing. The argument that use calls KEY is resolved: the API
// takes no alias for changes.
type change struct {
	use, short, long, example string
	args                      cobra.PositionalArgs
	// exact: what is destroyed is not named by an alias, which may have moved.
	exact bool
	// work makes the change. answer is what programs get, done what people read.
	work func(ctx context.Context, c *kms.Client, args []string) (answer any, done string, err error)
}

// command makes the command of a change. flags, which may be nil, adds its own.
func (ch change) command(s *cli.Service, flags func(*cobra.Command)) *cobra.Command {
	var p cli.Printer
	var region string
	if ch.args == nil {
		ch.args = cobra.ExactArgs(1)
	}
	key := slices.Index(cli.Arguments(ch.use), "KEY")
	cmd := &cobra.Command{
		Use: ch.use, Short: ch.short, Long: ch.long, Example: ch.example, Args: ch.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := s.KMS(region)
			if key >= 0 {
				var err error
				named := args[key]
				if args[key], err = cli.ResolveKey(cmd.Context(), c, named); err != nil {
					return s.Explain(err)
				}
				if ch.exact && args[key] != named {
					return cli.Usagef("%s is an alias, and may have moved: name the key itself, which is %s now", cli.Quote(named), args[key])
				}
			}
			answer, done, err := ch.work(cmd.Context(), c, args)
			if err != nil {
				return s.Explain(err)
			}
			return p.Print(cmd.OutOrStdout(), answer, cli.Table{Rows: [][]string{{done}}})
		},
	}
	p.Register(cmd)
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	if flags != nil {
		flags(cmd)
	}
	return cmd
}

// changed is the answer for operations that answer with nothing.
type changed struct{ KeyId string }

func newKeyEnable(s *cli.Service) *cobra.Command {
	return change{
		use: "enable KEY", short: "Enable a disabled key", example: "  cmkctl key enable alias/app",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: aws.String(args[0])})
			return changed{args[0]}, args[0] + " is enabled", err
		},
	}.command(s, nil)
}

func newKeyDisable(s *cli.Service) *cobra.Command {
	return change{
		use: "disable KEY", short: "Disable a key: nobody can use it until it is enabled", example: "  cmkctl key disable alias/app",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: aws.String(args[0])})
			return changed{args[0]}, args[0] + " is disabled", err
		},
	}.command(s, nil)
}

func newKeyDescribe(s *cli.Service) *cobra.Command {
	return change{
		use: "describe KEY TEXT", short: "Set the description of a key", args: cobra.ExactArgs(2),
		long:    `Describe sets the description that "cmkctl key show" prints. Do not put secrets into it.`,
		example: "  cmkctl key describe alias/app 'of the app, see the runbook'",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			_, err := c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: aws.String(args[0]), Description: aws.String(args[1])})
			return changed{args[0]}, args[0] + " is described", err
		},
	}.command(s, nil)
}

func newKeyDelete(s *cli.Service) *cobra.Command {
	var yes cli.Confirmation
	var days int32
	return change{
		use: "delete KEY", short: "Schedule the deletion of a key", exact: true,
		long: `Delete destroys the key after a waiting period of 7 to 30 days, during which it cannot be
used, and "cmkctl key cancel-delete" can still cancel that. Then everything encrypted
under it is lost. KEY is an ID or ARN: an alias may have moved.`,
		example: "  cmkctl key delete 1234abcd-12ab-34cd-56ef-1234567890ab --days 30",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			if err := yes.Ask(fmt.Sprintf("Delete %s, and lose what is encrypted under it, after %d days", args[0], days)); err != nil {
				return nil, "", err
			}
			answer, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: aws.String(args[0]), PendingWindowInDays: aws.Int32(days)})
			if err != nil {
				return nil, "", err
			}
			return answer, fmt.Sprintf("%s is deleted on %s", args[0], cli.Moment(answer.DeletionDate)), nil
		},
	}.command(s, func(cmd *cobra.Command) {
		yes.Register(cmd)
		cmd.Flags().Int32Var(&days, "days", 30, "waiting period in `days`, 7 to 30")
	})
}

func newKeyCancelDelete(s *cli.Service) *cobra.Command {
	return change{
		use: "cancel-delete KEY", short: "Keep a key whose deletion is scheduled",
		long:    `Cancel-delete cancels the deletion of a key. The key is then disabled: use "cmkctl key enable".`,
		example: "  cmkctl key cancel-delete alias/app",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			answer, err := c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: aws.String(args[0])})
			return answer, args[0] + " is kept, and disabled", err
		},
	}.command(s, nil)
}

func newKeyTag(s *cli.Service) *cobra.Command {
	var remove []string
	var p cli.Printer
	var region string
	cmd := &cobra.Command{
		Use:   "tag KEY [NAME=VALUE...]",
		Short: "List, set or remove the tags of a key",
		Long:  `Tag lists the tags of a key, after setting and removing the given ones. Policies may depend on tags.`,
		Example: `  cmkctl key tag alias/app stage=prod team=ops
  cmkctl key tag alias/app --remove team`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tags, err := parseTags(args[1:])
			if err != nil {
				return err
			}
			c := s.KMS(region)
			key, err := cli.ResolveKey(cmd.Context(), c, args[0])
			if err != nil {
				return s.Explain(err)
			}
			if len(tags) > 0 {
				if _, err := c.TagResource(cmd.Context(), &kms.TagResourceInput{KeyId: aws.String(key), Tags: tags}); err != nil {
					return s.Explain(err)
				}
			}
			if len(remove) > 0 {
				if _, err := c.UntagResource(cmd.Context(), &kms.UntagResourceInput{KeyId: aws.String(key), TagKeys: remove}); err != nil {
					return s.Explain(err)
				}
			}
			list, err := listTags(cmd.Context(), c, key)
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"NAME", "VALUE"}}
			for _, tag := range list {
				t.Add(aws.ToString(tag.TagKey), aws.ToString(tag.TagValue))
			}
			return p.Print(cmd.OutOrStdout(), list, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "`name` of a tag to remove; repeatable")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	return cmd
}

// parseTags reads NAME=VALUE.
func parseTags(texts []string) ([]types.Tag, error) {
	var tags []types.Tag
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, cli.Usagef("tag %q: want NAME=VALUE", text)
		}
		tags = append(tags, types.Tag{TagKey: aws.String(name), TagValue: aws.String(value)})
	}
	return tags, nil
}
