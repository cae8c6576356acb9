package keys

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

func newKeyRotate(s *cli.Service) *cobra.Command {
	return change{
		use: "rotate KEY", short: "Rotate a key now",
		long: `Rotate creates new material, which encrypts from now on; what earlier material
encrypted can still be decrypted. A key can be rotated 25 times this way.`,
		example: "  cmkctl key rotate alias/app",
		work: func(ctx context.Context, c *kms.Client, args []string) (any, string, error) {
			answer, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: aws.String(args[0])}, cli.Once)
			return answer, args[0] + " is rotated", err
		},
	}.command(s, nil)
}

// rotations is what rotation prints.
type rotations struct {
	*kms.GetKeyRotationStatusOutput

	Rotations []types.RotationsListEntry
}

func newKeyRotation(s *cli.Service) *cobra.Command {
	var (
		p               cli.Printer
		region          string
		enable, disable bool
		days            int32
	)
	cmd := &cobra.Command{
		Use:   "rotation KEY",
		Short: "Show or set the automatic rotation of a key",
		Long: `Rotation shows whether a key is rotated automatically, and its materials. With
--enable or --disable it changes that first.`,
		Example: `  cmkctl key rotation alias/app
  cmkctl key rotation alias/app --enable --days 180`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("days") && !enable {
				return cli.Usagef("--days is for --enable")
			}
			c := s.KMS(region)
			id, err := cli.ResolveKey(cmd.Context(), c, args[0])
			if err != nil {
				return s.Explain(err)
			}
			key := aws.String(id)
			switch {
			case enable:
				in := &kms.EnableKeyRotationInput{KeyId: key}
				if cmd.Flags().Changed("days") {
					in.RotationPeriodInDays = aws.Int32(days)
				}
				_, err = c.EnableKeyRotation(cmd.Context(), in)
			case disable:
				_, err = c.DisableKeyRotation(cmd.Context(), &kms.DisableKeyRotationInput{KeyId: key})
			}
			if err != nil {
				return s.Explain(err)
			}
			r, err := readRotations(cmd.Context(), c, key)
			if err != nil {
				return s.Explain(err)
			}
			t := cli.Table{Headers: []string{"MATERIAL", "STATE", "ROTATED", "BY", "EXPIRES"}}
			for _, e := range r.Rotations {
				t.Add(aws.ToString(e.KeyMaterialId), string(e.KeyMaterialState), cli.Moment(e.RotationDate), string(e.RotationType), cli.Moment(e.ValidTo))
			}
			if p.Output.Value == cli.AsTable && !p.NoHeaders {
				fmt.Fprintf(cmd.OutOrStdout(), "rotation: %s\n\n", rotationText(r.GetKeyRotationStatusOutput))
			}
			return p.Print(cmd.OutOrStdout(), r, t)
		},
	}
	p.Register(cmd)
	cmd.Flags().BoolVar(&enable, "enable", false, "rotate the key automatically")
	cmd.Flags().BoolVar(&disable, "disable", false, "stop rotating the key")
	cmd.Flags().Int32Var(&days, "days", 365, "period in `days`, 90 to 2560")
	cmd.Flags().StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	cmd.MarkFlagsMutuallyExclusive("enable", "disable")
	return cmd
}

func readRotations(ctx context.Context, c *kms.Client, key *string) (*rotations, error) {
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key})
	if err != nil {
		return nil, err
	}
	pages := kms.NewListKeyRotationsPaginator(c, &kms.ListKeyRotationsInput{KeyId: key, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	list, err := cli.Pages(ctx, pages.HasMorePages, pages.NextPage, func(page *kms.ListKeyRotationsOutput) []types.RotationsListEntry { return page.Rotations })
	if err := withheld(err); err != nil {
		return nil, err
	}
	return &rotations{status, list}, nil
}
