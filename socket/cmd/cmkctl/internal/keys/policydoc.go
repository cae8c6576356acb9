package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
)

// maxPolicy is the longest key policy that the API takes, in bytes.
const maxPolicy = 131072

// policyFlags name the key of a policy.
type policyFlags struct{ key, region string }

func (f *policyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.key, "key", "k", "", cli.KeyUsage)
	_ = cmd.MarkFlagRequired("key") // fails only for a flag that is not there
	cmd.Flags().StringVar(&f.region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
}

// readPolicy gets a key policy, with every member on a line of its own.
func readPolicy(ctx context.Context, c *kms.Client, key string) ([]byte, error) {
	id, err := cli.ResolveKey(ctx, c, key)
	if err != nil {
		return nil, err
	}
	answer, err := c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: aws.String(id)})
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, []byte(aws.ToString(answer.Policy)), "", "  "); err != nil {
		return nil, fmt.Errorf("the policy of %s is not JSON: %w", key, err)
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}

func newPolicyGet(s *cli.Service) *cobra.Command {
	var f policyFlags
	format := cli.Choice{Value: cli.AsJSON, Of: []string{cli.AsJSON, cli.AsYAML}}
	cmd := &cobra.Command{
		Use:     "get --key KEY",
		Short:   "Print the policy of a key",
		Example: "  cmkctl policy get -k alias/app >policy.json",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readPolicy(cmd.Context(), s.KMS(f.region), f.key)
			if err != nil {
				return s.Explain(err)
			}
			if format.Value == cli.AsYAML {
				return cli.PrintYAML(cmd.OutOrStdout(), text)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().VarP(&format, "output", "o", "`format`: json or yaml")
	return cmd
}

// putting is how set and edit put a policy.
type putting struct {
	policyFlags
	bypass bool
}

func (f *putting) register(cmd *cobra.Command) {
	f.policyFlags.register(cmd)
	cmd.Flags().BoolVar(&f.bypass, "bypass-lockout-check", false, "accept a policy that would not let you change it again")
}

// put puts a policy after a look at its syntax, which the daemon does not explain.
func (f *putting) put(ctx context.Context, c *kms.Client, text []byte) error {
	if err := cli.CheckJSON(string(text)); err != nil {
		return cli.Inputf("the policy is not JSON: %w", err)
	}
	id, err := cli.ResolveKey(ctx, c, f.key)
	if err != nil {
		return err
	}
	_, err = c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: aws.String(id), Policy: aws.String(string(text)), BypassPolicyLockoutSafetyCheck: f.bypass})
	return err
}

func newPolicySet(s *cli.Service) *cobra.Command {
	var f putting
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "set --key KEY [FILE]",
		Short: "Replace the policy of a key",
		Long: `Set replaces the key policy with FILE, or standard input. "cmkctl policy check"
shows beforehand which past calls the new policy would refuse.`,
		Example: `  cmkctl policy check --key alias/app --policy policy.json
  cmkctl policy set -k alias/app policy.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cli.BlobIn{Form: cli.Choice{Value: cli.FormRaw}}
			text, err := in.Read(cmd, args, maxPolicy, "policy")
			if err != nil {
				return err
			}
			if err := f.put(cmd.Context(), s.KMS(f.region), text); err != nil {
				return s.Explain(err)
			}
			return p.Print(cmd.OutOrStdout(), changed{f.key}, cli.Table{Rows: [][]string{{"the policy of " + f.key + " is replaced"}}})
		},
	}
	f.register(cmd)
	p.Register(cmd)
	return cmd
}

func newPolicyEdit(s *cli.Service) *cobra.Command {
	var f putting
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "edit --key KEY",
		Short: "Edit the policy of a key in an editor",
		Long: `Edit opens the key policy in $VISUAL, $EDITOR or vi, and sets it when the editor
exits. A policy that is refused stays in a file, whose name is printed. If somebody else
has changed the policy meanwhile, it is not overwritten.`,
		Example: "  EDITOR=nano cmkctl policy edit -k alias/app",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := f.edit(cmd, s)
			if err != nil {
				return s.Explain(err)
			}
			return p.Print(cmd.OutOrStdout(), changed{f.key}, cli.Table{Rows: [][]string{{done}}})
		},
	}
	f.register(cmd)
	p.Register(cmd)
	return cmd
}

// edit has somebody edit the policy, and puts what they have made of it.
func (f *putting) edit(cmd *cobra.Command, s *cli.Service) (done string, err error) {
	c := s.KMS(f.region)
	before, err := readPolicy(cmd.Context(), c, f.key)
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp("", "cmkctl-policy-*.json")
	if err != nil {
		return "", err
	}
	path := file.Name()
	if _, err := file.Write(before); err != nil {
		return "", errors.Join(err, file.Close(), os.Remove(path))
	}
	if err := file.Close(); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	if err := runEditor(cmd, path); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	after, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if bytes.Equal(before, after) {
		return "the policy of " + f.key + " is as it was", os.Remove(path)
	}
	now, err := readPolicy(cmd.Context(), c, f.key)
	if err == nil && !bytes.Equal(before, now) {
		err = cli.Exit(cli.ExitState, errors.New("somebody else has changed the policy meanwhile"))
	}
	if err == nil {
		err = f.put(cmd.Context(), c, after)
	}
	if err != nil {
		err = s.Explain(err)
		return "", fmt.Errorf("%w; what you wrote is in %s", err, path)
	}
	return "the policy of " + f.key + " is replaced", os.Remove(path)
}

// runEditor runs the user's editor on a file. The variable may hold arguments, as git
// and crontab take it: the shell reads it.
func runEditor(cmd *cobra.Command, path string) error {
	const script = `${VISUAL:-${EDITOR:-vi}} "$1"`
	editor := exec.CommandContext(cmd.Context(), "sh", "-c", script, "sh", path) //nolint:gosec // the user's own editor
	editor.Stdin, editor.Stdout, editor.Stderr = cmd.InOrStdin(), cli.Raw(cmd.OutOrStdout()), cli.Raw(cmd.ErrOrStderr())
	// Ctrl-C and Ctrl-\ go to all that runs in the terminal, and mean the editor alone.
	keys := make(chan os.Signal, 1)
	signal.Notify(keys, os.Interrupt, syscall.SIGQUIT)
	defer signal.Stop(keys)
	if err := editor.Run(); err != nil {
		return fmt.Errorf("the editor: %w", err)
	}
	return nil
}
