package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cmkd/socket/cmd/cmkctl/internal/cli"
	"cmkd/socket/kmsapi"
)

// completeFor bounds what a press of the tab key waits for.
const completeFor = time.Second

// candidate finds what a word on the command line can become: a word, perhaps with a
// tab and an explanation behind it. Errors are nobody's business here.
type candidate func(ctx context.Context, s *cli.Service, cmd *cobra.Command) []string

// completed is what completes arguments, by the names that they have in the usage of
// a command, and the values of flags, by the flags' names.
var completed = map[string]candidate{
	"KEY":       keyCandidates,
	"OPERATION": operationCandidates,
	"ALIAS":     aliasCandidates,
	"STORE-ID":  storeCandidates,
	"GRANT-ID":  grantCandidates,

	"--key":       keyCandidates,
	"--from-key":  keyCandidates,
	"--action":    actionCandidates,
	"--as":        principalCandidates,
	"--admin":     principalCandidates,
	"--user":      principalCandidates,
	"--store":     storeCandidates,
	"--operation": operationCandidates,
}

// completions makes the shell complete what the daemon, or the system, knows the
// names of. Where a word is not a file, no files are offered.
func completions(cmd *cobra.Command, s *cli.Service) {
	for _, sub := range cmd.Commands() {
		completions(sub, s)
	}
	if cmd.ValidArgsFunction == nil && len(cmd.ValidArgs) == 0 && !cmd.HasSubCommands() {
		cmd.ValidArgsFunction = completeArgs(cmd, s)
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if complete := completeFlag(f, s); complete != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, complete) // it fails for one that has its own already
		}
	})
}

// completeFlag is nil for flags whose values may be files.
func completeFlag(f *pflag.Flag, s *cli.Service) cobra.CompletionFunc {
	if c, ok := f.Value.(*cli.Choice); ok {
		return cobra.FixedCompletions(c.Of, cobra.ShellCompDirectiveNoFileComp)
	}
	if find, ok := completed["--"+f.Name]; ok {
		return complete(s, find)
	}
	switch name, _ := pflag.UnquoteUsage(f); name {
	case "file", "path", "folder":
		return nil
	}
	return cobra.NoFileCompletions
}

// completeArgs completes the arguments of a command by the words of its usage.
func completeArgs(cmd *cobra.Command, s *cli.Service) cobra.CompletionFunc {
	words := cli.Arguments(cmd.Use)
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(words) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		word := words[min(len(args), len(words)-1)]
		more := strings.HasSuffix(word, "...")
		word = strings.TrimSuffix(word, "...")
		switch find, ok := completed[word]; {
		case len(args) >= len(words) && !more:
			return nil, cobra.ShellCompDirectiveNoFileComp
		case ok:
			return complete(s, find)(cmd, args, prefix)
		case word == "FILE" || word == "FOLDER" || word == "COMMAND" || word == "ARGUMENT":
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete asks for candidates, for a short time.
func complete(s *cli.Service, find candidate) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeFor)
		defer cancel()
		short := *s
		short.Timeout = completeFor
		var found []cobra.Completion
		for _, c := range find(ctx, &short, cmd) {
			if strings.HasPrefix(c, prefix) {
				found = append(found, escapeLine(c))
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// escapeLine takes what a terminal obeys out of a line that others may have written.
func escapeLine(line string) string {
	word, explanation, ok := strings.Cut(line, "\t")
	if !ok {
		return cli.Quote(word)
	}
	return cli.Quote(word) + "\t" + cli.Quote(explanation)
}

// regionOf is the Region that the command line names so far.
func regionOf(cmd *cobra.Command) string {
	if f := cmd.Flags().Lookup("region"); f != nil {
		return f.Value.String()
	}
	return cli.EnvironmentRegion()
}

func aliasCandidates(ctx context.Context, s *cli.Service, cmd *cobra.Command) []string {
	aliases, err := cli.ListAliases(ctx, s.KMS(regionOf(cmd)), "")
	if err != nil {
		return nil
	}
	var found []string
	for _, a := range aliases {
		found = append(found, aws.ToString(a.AliasName)+"\t"+aws.ToString(a.TargetKeyId))
	}
	return found
}

// keyCandidates are aliases, and the IDs of all keys.
func keyCandidates(ctx context.Context, s *cli.Service, cmd *cobra.Command) []string {
	c := s.KMS(regionOf(cmd))
	aliases, _ := cli.ListAliases(ctx, c, "")
	names := map[string]string{}
	var found []string
	for _, a := range aliases {
		found = append(found, aws.ToString(a.AliasName)+"\t"+aws.ToString(a.TargetKeyId))
		names[aws.ToString(a.TargetKeyId)] = aws.ToString(a.AliasName)
	}
	p := kms.NewListKeysPaginator(c, &kms.ListKeysInput{})
	keys, _ := cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListKeysOutput) []types.KeyListEntry { return page.Keys })
	for _, k := range keys {
		id := aws.ToString(k.KeyId)
		if names[id] != "" {
			id += "\t" + names[id]
		}
		found = append(found, id)
	}
	return found
}

func storeCandidates(ctx context.Context, s *cli.Service, cmd *cobra.Command) []string {
	p := kms.NewDescribeCustomKeyStoresPaginator(s.KMS(regionOf(cmd)), &kms.DescribeCustomKeyStoresInput{})
	stores, _ := cli.Pages(ctx, p.HasMorePages, p.NextPage,
		func(page *kms.DescribeCustomKeyStoresOutput) []types.CustomKeyStoresListEntry {
			return page.CustomKeyStores
		})
	var found []string
	for _, e := range stores {
		found = append(found, aws.ToString(e.CustomKeyStoreId)+"\t"+aws.ToString(e.CustomKeyStoreName))
	}
	return found
}

// grantCandidates are the grants of the key of --key.
func grantCandidates(ctx context.Context, s *cli.Service, cmd *cobra.Command) []string {
	key, err := cmd.Flags().GetString("key")
	if err != nil || key == "" {
		return nil
	}
	c := s.KMS(regionOf(cmd))
	id, err := cli.ResolveKey(ctx, c, key)
	if err != nil {
		return nil
	}
	p := kms.NewListGrantsPaginator(c, &kms.ListGrantsInput{KeyId: aws.String(id)})
	grants, _ := cli.Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListGrantsOutput) []types.GrantListEntry { return page.Grants })
	var found []string
	for _, g := range grants {
		found = append(found, aws.ToString(g.GrantId)+"\t"+aws.ToString(g.GranteePrincipal))
	}
	return found
}

func operationCandidates(context.Context, *cli.Service, *cobra.Command) []string {
	var found []string
	for _, o := range kmsapi.Operations {
		found = append(found, o.Name)
	}
	return found
}

func actionCandidates(context.Context, *cli.Service, *cobra.Command) []string {
	var found []string
	for _, o := range kmsapi.Operations {
		found = append(found, "kms:"+o.Name)
	}
	return found
}

// principalCandidates are the users and groups that the system lists: getent(1) asks
// all its sources.
func principalCandidates(ctx context.Context, _ *cli.Service, _ *cobra.Command) []string {
	var found []string
	for _, database := range []struct{ name, prefix string }{{"passwd", ""}, {"group", "group:"}} {
		list := exec.CommandContext(ctx, "getent", database.name)
		list.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		list.WaitDelay = completeFor
		out, _ := list.Output()
		for line := range strings.Lines(string(out)) {
			if name, _, ok := strings.Cut(line, ":"); ok {
				found = append(found, database.prefix+name)
			}
		}
	}
	return found
}
