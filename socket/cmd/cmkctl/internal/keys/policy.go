package keys

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/operatorapi"
)

const principalsHelp = `A principal is the name of a user, or user:NAME, group:NAME, role:NAME,
unit:NAME, or an ARN.`

func NewPolicy(s *cli.Service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show and set key policies, and explain who may do what, and why",
		Args:  cli.NoArgs,
	}
	cmd.AddCommand(newPolicyGet(s), newPolicySet(s), newPolicyEdit(s), newPolicyExplain(s), newPolicyWho(s), newPolicyCheck(s))
	return cmd
}

// policyQuestion is what explain and who ask.
type policyQuestion struct {
	operatorapi.PolicyQuestion

	context    cli.Pairs
	conditions []string // KEY=VALUE
}

func (q *policyQuestion) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.Action, "action", "", "`action` such as kms:Decrypt")
	f.StringVarP(&q.Key, "key", "k", "", cli.KeyUsage+"; omit it for operations without a key")
	f.StringVar(&q.Region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	q.context = cli.Pairs{}
	f.Var(q.context, "context", "encryption context of the call, "+cli.PairsUsage)
	f.StringArrayVar(&q.conditions, "condition", nil, "`KEY=VALUE` of a condition key such as kms:SigningAlgorithm; may be repeated")
	_ = cmd.MarkFlagRequired("action") // the flag exists
}

// complete reads the pairs and looks at the key's name.
func (q *policyQuestion) complete(ctx context.Context, s *cli.Service) error {
	if len(q.context) > 0 {
		q.EncryptionContext = q.context
	}
	for _, pair := range q.conditions {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return cli.Usagef("--condition %q: want KEY=VALUE", pair)
		}
		if q.Conditions == nil {
			q.Conditions = map[string][]string{}
		}
		q.Conditions[key] = append(q.Conditions[key], value)
	}
	return s.Explain(cli.CheckKeys(ctx, s.KMS(q.Region), q.Key))
}

// policyExplanation is the daemon's answer to explain.
type policyExplanation operatorapi.Explanation

func newPolicyExplain(s *cli.Service) *cobra.Command {
	q := &policyQuestion{}
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "explain --as PRINCIPAL --action ACTION [--key KEY]",
		Short: "Show whether a principal may do something, and which statement decides",
		Long: `Explain shows how the key policy, the identity policies and the grants would
decide a call, and everything that was considered. It exits with 1 if the call would be
refused. Only root, admins and auditors may ask.

` + principalsHelp,
		Example: "  cmkctl policy explain --as deploy --action kms:Decrypt --key alias/app --context stage=prod",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := q.complete(cmd.Context(), s); err != nil {
				return err
			}
			var e policyExplanation
			if err := p.Ask(cmd.Context(), s, operatorapi.ExplainPolicy.Path, &q.PolicyQuestion, &e); err != nil {
				return err
			}
			if err := p.PrintAs(cmd.OutOrStdout(), &e, func(out io.Writer) error { return e.print(out, !p.NoHeaders) }); err != nil {
				return err
			}
			if !e.Allowed {
				return &cli.ExitError{Status: 1}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&q.As, "as", "", "`principal` that would make the call")
	_ = cmd.MarkFlagRequired("as") // the flag exists
	q.flags(cmd)
	p.Register(cmd)
	return cmd
}

func (e *policyExplanation) print(out io.Writer, headers bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "principal\t%s\n", e.Principal)
	if len(e.Groups) > 0 {
		fmt.Fprintf(w, "groups\t%s\n", strings.Join(e.Groups, " "))
	}
	fmt.Fprintf(w, "action\t%s\n", e.Action)
	fmt.Fprintf(w, "resource\t%s\n", e.Resource)
	if e.KeyState != "" {
		fmt.Fprintf(w, "key state\t%s\n", e.KeyState)
	}
	fmt.Fprintf(w, "decision\t%s\n", e.Decision)
	if err := w.Flush(); err != nil {
		return err
	}
	if len(e.Steps) == 0 {
		return nil
	}
	w = tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w)
	if headers {
		fmt.Fprintln(w, "\tSOURCE\tSTATEMENT\tEFFECT\tWHY")
	}
	for _, s := range e.Steps {
		mark, statement := "", ""
		if s.Matched {
			mark = "*"
		}
		if s.Statement > 0 {
			statement = strings.TrimSpace(fmt.Sprintf("%d %s", s.Statement, s.Sid))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", mark, s.Source, statement, s.Effect, s.Why)
	}
	return w.Flush()
}

// policyWho is the daemon's answer to who.
type policyWho operatorapi.Allowed

func newPolicyWho(s *cli.Service) *cobra.Command {
	q := &policyQuestion{}
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "who --action ACTION [--key KEY]",
		Short: "List who may do something",
		Long: `Who lists those who may do something, among root, the users of the system, and
the principals that the configuration, the key's policy and its grants name. Under
"depends" are those whom only a condition keeps out of the call as described; give its
encryption context and condition keys to be certain.`,
		Example: "  cmkctl policy who --key alias/app --action kms:Decrypt",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := q.complete(cmd.Context(), s); err != nil {
				return err
			}
			var who policyWho
			if err := p.Ask(cmd.Context(), s, operatorapi.WhoMay.Path, &q.PolicyQuestion, &who); err != nil {
				return err
			}
			return p.PrintAs(cmd.OutOrStdout(), &who, who.print)
		},
	}
	q.flags(cmd)
	p.RegisterFormat(cmd)
	return cmd
}

func (who *policyWho) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if who.Everyone {
		fmt.Fprintln(w, "EVERYONE\tany user of this machine who reaches the socket")
	}
	for _, p := range who.Allowed {
		fmt.Fprintf(w, "%s\t%s\n", p.Principal, p.Why)
	}
	for i, p := range who.Depends {
		if i == 0 {
			fmt.Fprintln(w, "\ndepends:")
		}
		fmt.Fprintf(w, "%s\t%s\n", p.Principal, p.Why)
	}
	return w.Flush()
}

// policyCheck is the daemon's answer to check.
type policyCheck operatorapi.PolicyCheck

// monthBack is how far back check looks by default.
const monthBack = 30 * 24 * time.Hour

func newPolicyCheck(s *cli.Service) *cobra.Command {
	var key, file, region string
	var since time.Duration
	var p cli.Printer
	cmd := &cobra.Command{
		Use:   "check --key KEY --policy FILE",
		Short: "List the past calls that a new key policy would refuse",
		Long: `Check replays the calls on a key in the audit trail against a new key policy,
with identity policies and grants as they are now, and lists those that would be refused.
It exits with 1 if there are any.`,
		Example: "  cmkctl policy check --key alias/app --policy new.json --since 2160h",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from := cli.BlobIn{Form: cli.Choice{Value: cli.FormRaw}}
			text, err := from.Read(cmd, []string{file}, maxPolicy, "policy")
			if err != nil {
				return err
			}
			if err := cli.CheckKeys(cmd.Context(), s.KMS(region), key); err != nil {
				return s.Explain(err)
			}
			in := operatorapi.CheckRequest{Key: key, Region: region, Policy: string(text), Since: time.Now().Add(-since)}
			var c policyCheck
			if err := p.Ask(cmd.Context(), s, operatorapi.CheckPolicy.Path, &in, &c); err != nil {
				return err
			}
			if err := p.PrintAs(cmd.OutOrStdout(), &c, func(out io.Writer) error { return c.print(out, !p.NoHeaders) }); err != nil {
				return err
			}
			for _, name := range c.UnknownConditionKeys {
				cmd.PrintErrf("warning: no request ever has the condition key %s: a Deny on it denies nothing\n", name)
			}
			if len(c.Refused) > 0 {
				return &cli.ExitError{Status: 1}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&key, "key", "k", "", cli.KeyUsage)
	f.StringVar(&file, "policy", "", "`file` of the new key policy, - for standard input")
	f.StringVar(&region, "region", cli.EnvironmentRegion(), cli.RegionUsage)
	f.DurationVar(&since, "since", monthBack, "how far back to look")
	p.Register(cmd)
	_ = cmd.MarkFlagRequired("key") // the flags exist
	_ = cmd.MarkFlagRequired("policy")
	return cmd
}

func (c *policyCheck) print(out io.Writer, headers bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%d calls on %s, %d kinds of them would be refused\n", c.Calls, c.Resource, len(c.Refused))
	if len(c.Refused) > 0 {
		fmt.Fprintln(w)
		if headers {
			fmt.Fprintln(w, "PRINCIPAL\tACTION\tCONTEXT KEYS\tCALLS\tLAST\tWHY")
		}
	}
	for _, r := range c.Refused {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", r.Principal, r.Action, strings.Join(r.ContextKeys, " "), r.Calls,
			r.Last.UTC().Format(time.RFC3339), r.Why)
	}
	if c.Others > 0 {
		fmt.Fprintf(w, "\nand %d calls of further kinds\n", c.Others)
	}
	return w.Flush()
}
