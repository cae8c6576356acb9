package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// aliasPattern is that of CreateAlias, without the names of managed keys.
var aliasPattern = regexp.MustCompile(`^alias/[a-zA-Z0-9:/_-]{1,250}$`)

func newKey(s *service) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make keys",
		Args:  noArgs,
	}
	cmd.AddCommand(newKeyCreate(s))
	return cmd
}

// keyCreation is what key create is told.
type keyCreation struct {
	alias, description, spec, usage, region string
	admins, users                           []string
}

func newKeyCreate(s *service) *cobra.Command {
	k := &keyCreation{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a key with administrators and users, and print its ARN",
		Long: `Create makes a key with the key policy that AWS's console writes: the account,
the administrators, who may manage the key and not use it, and the users, who
may use it. Without either, only the account has the key.

` + principalsHelp,
		Example: "  cmkctl key create --alias app --description 'of the app' --admin ops --user group:app",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			arn, err := k.create(cmd.Context(), s)
			if arn != "" {
				fmt.Fprintln(cmd.OutOrStdout(), arn)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&k.alias, "alias", "", "`name` of an alias for the key")
	f.StringVar(&k.description, "description", "", "`text` for people")
	f.StringVar(&k.spec, "spec", "SYMMETRIC_DEFAULT", "key `spec`")
	f.StringVar(&k.usage, "usage", "", "key `usage`; needed but for symmetric encryption keys")
	f.StringArrayVar(&k.admins, "admin", nil, "`principal` that may manage the key; may be repeated")
	f.StringArrayVar(&k.users, "user", nil, "`principal` that may use the key; may be repeated")
	f.StringVar(&k.region, "region", environmentRegion(), regionUsage)
	return cmd
}

// create makes the key, then its alias. If the alias fails the key is deleted
// again; if that fails too, its ARN is returned with the error.
func (k *keyCreation) create(ctx context.Context, s *service) (arn string, err error) {
	if name := k.aliasName(); k.alias != "" && !aliasPattern.MatchString(name) || strings.HasPrefix(name, "alias/aws/") {
		return "", fmt.Errorf("no key is made: %q cannot be an alias: want up to 250 letters, digits and the characters :/_- and no aws/ at the beginning", k.alias)
	}
	question := struct {
		Admins   []string `json:"admins"`
		Users    []string `json:"users"`
		KeySpec  string   `json:"keySpec"`
		KeyUsage string   `json:"keyUsage,omitempty"`
	}{k.admins, k.users, k.spec, k.usage}
	var policy struct {
		Policy string `json:"policy"`
	}
	if err := askExactly(ctx, s, "/policy/key", question, &policy); err != nil {
		return "", fmt.Errorf("writing the key policy: %w", err)
	}
	in := struct {
		Description string `json:",omitempty"`
		KeySpec     string
		KeyUsage    string `json:",omitempty"`
		Policy      string
	}{k.description, k.spec, k.usage, policy.Policy}
	if err := k.checkAlias(ctx, s); err != nil {
		return "", err
	}
	var made keyDescription
	if err := k.call(ctx, s, "CreateKey", in, &made); err != nil {
		return "", err
	}
	if k.alias == "" {
		return made.KeyMetadata.Arn, nil
	}
	alias := struct{ AliasName, TargetKeyId string }{k.aliasName(), made.KeyMetadata.KeyId}
	if err := k.call(ctx, s, "CreateAlias", alias, nil); err != nil {
		return k.takeBack(ctx, s, &made, err)
	}
	return made.KeyMetadata.Arn, nil
}

// keyDescription is what CreateKey and DescribeKey answer, as far as it is needed.
type keyDescription struct {
	KeyMetadata struct{ KeyId, Arn string }
}

func (k *keyCreation) aliasName() string { return "alias/" + strings.TrimPrefix(k.alias, "alias/") }

// checkAlias refuses an alias that is taken before there is a key for it. Who may
// not ask is told by CreateAlias.
func (k *keyCreation) checkAlias(ctx context.Context, s *service) error {
	if k.alias == "" {
		return nil
	}
	var taken keyDescription
	if err := k.call(ctx, s, "DescribeKey", struct{ KeyId string }{k.aliasName()}, &taken); err != nil {
		return nil //nolint:nilerr // it is free, or CreateAlias says what is wrong
	}
	return fmt.Errorf("no key is made: %s is the alias of %s", k.aliasName(), taken.KeyMetadata.Arn)
}

// takeBackDays is the shortest waiting period of a deletion.
const takeBackDays = 7

// takeBack schedules the deletion of the key that could not have its alias:
// nothing has been encrypted under it. If that fails too, its ARN is returned.
func (k *keyCreation) takeBack(ctx context.Context, s *service, made *keyDescription, why error) (arn string, err error) {
	in := struct {
		KeyId               string
		PendingWindowInDays int
	}{made.KeyMetadata.KeyId, takeBackDays}
	if err := k.call(ctx, s, "ScheduleKeyDeletion", in, nil); err != nil {
		return made.KeyMetadata.Arn, fmt.Errorf("the key is made, its alias is not: %w; it is not taken back either: %w", why, err)
	}
	return "", fmt.Errorf("the alias is not made: %w; the new key %s is deleted in %d days", why, made.KeyMetadata.Arn, takeBackDays)
}

// call makes one call of the KMS API.
func (k *keyCreation) call(ctx context.Context, s *service, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := call(ctx, s, k.region, operation, string(body))
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}
