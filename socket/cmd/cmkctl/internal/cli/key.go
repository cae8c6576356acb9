package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// KeyUsage is the help of a flag that names a key, or its beginning.
const KeyUsage = "`key` ID, ARN or alias/NAME"

// AliasPrefix begins the name of every alias.
const AliasPrefix = "alias/"

// keyName is how the KMS API has keys named: a key ID (a UUID, or that of a multi-Region key), a
// key ARN, an alias or the ARN of an alias.
var keyName = regexp.MustCompile(`^(?:arn:.*|alias/.*|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|mrk-[0-9a-fA-F]{32})$`)

// CheckKey returns an error if key is the name of an alias without the prefix, which somebody may
// have forgotten. It asks exists only about what cannot name a key, and leaves that to the API if
// there is no such alias.
func CheckKey(key string, exists func(alias string) (bool, error)) error {
	if key == "" || keyName.MatchString(key) {
		return nil
	}
	if ok, err := exists(AliasPrefix + key); err != nil || !ok {
		return err
	}
	return Exit(ExitNotFound, fmt.Errorf("%s is not a key ID: did you mean %s?", Quote(key), Quote(AliasPrefix+key)))
}

// CheckKeys does what [CheckKey] does for the aliases that the daemon has.
func CheckKeys(ctx context.Context, c *kms.Client, keys ...string) error {
	exists := func(alias string) (bool, error) {
		target, err := AliasTarget(ctx, c, alias)
		if _, refused := errors.AsType[smithy.APIError](err); refused {
			return false, nil
		}
		return target != "", err
	}
	for _, key := range keys {
		if err := CheckKey(key, exists); err != nil {
			return err
		}
	}
	return nil
}

// ResolveKey returns the ARN of the key that an alias names, for operations that take no alias. A
// key that is named by ID or ARN is not asked about.
func ResolveKey(ctx context.Context, c *kms.Client, key string) (string, error) {
	if !strings.HasPrefix(key, AliasPrefix) && !strings.Contains(key, ":"+AliasPrefix) {
		return key, CheckKeys(ctx, c, key)
	}
	answer, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(key)})
	if err != nil {
		return "", err
	}
	return aws.ToString(answer.KeyMetadata.Arn), nil
}

// AliasTarget returns the ARN or the ID of the key that an alias names, "" if there is no such
// alias, or none that the caller may know of.
func AliasTarget(ctx context.Context, c *kms.Client, alias string) (string, error) {
	answer, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	switch {
	case err == nil:
		return aws.ToString(answer.KeyMetadata.Arn), nil
	case APICode(err, "NotFoundException"):
		return "", nil
	case !APICode(err, "AccessDeniedException"):
		return "", err
	}
	aliases, err := ListAliases(ctx, c, "")
	if APICode(err, "AccessDeniedException") {
		return "", nil
	}
	if i := slices.IndexFunc(aliases, func(a types.AliasListEntry) bool { return aws.ToString(a.AliasName) == alias }); i >= 0 {
		return aws.ToString(aliases[i].TargetKeyId), nil
	}
	return "", err
}

// ListAliases lists the aliases of a key, "" for those of all keys.
func ListAliases(ctx context.Context, c *kms.Client, key string) ([]types.AliasListEntry, error) {
	p := kms.NewListAliasesPaginator(c, &kms.ListAliasesInput{KeyId: OrNil(key)})
	return Pages(ctx, p.HasMorePages, p.NextPage, func(page *kms.ListAliasesOutput) []types.AliasListEntry { return page.Aliases })
}
