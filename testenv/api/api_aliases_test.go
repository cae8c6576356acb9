package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// testAliases: the life of an alias, and AWS's texts for what is refused.
func testAliases(t *testing.T, a *api) {
	first, second := a.fresh(t, &kms.CreateKeyInput{}), a.fresh(t, &kms.CreateKeyInput{})
	third := a.fresh(t, &kms.CreateKeyInput{})
	name := "alias/life-" + *first
	create := func(name string, target *string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: target}))
		}
	}
	update := func(name string, target *string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: target}))
		}
	}
	remove := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name}))
		}
	}
	pointsTo := func(id *string) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := a.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &name})
			if err == nil && *out.KeyMetadata.KeyId != *id {
				return fmt.Errorf("the alias points to %s, want %s", *out.KeyMetadata.KeyId, *id)
			}
			return err
		}
	}
	prefix := validation(`Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
	unfit := func(target *string) want {
		return validation(fmt.Sprintf("Alias %s cannot be changed from key %s to key %s. The current key and the new key must be the same type (both symmetric or both asymmetric or both HMAC) and have the same key usage.",
			rig.ARN(name), keyARN(second), keyARN(target)))
	}
	unknown := aws.String(unknownID)
	runCalls(t, []call{
		{"create", create(name, first), wantOK()},
		{"points to the key", pointsTo(first), wantOK()},
		{"create again", create(name, second), wantError("AlreadyExistsException", "An alias with the name "+rig.ARN(name)+" already exists")},
		{"create again for the same key", create(name, first), wantError("AlreadyExistsException", "An alias with the name "+rig.ARN(name)+" already exists")},
		{"update", update(name, second), wantOK()},
		{"points to the new key", pointsTo(second), wantOK()},
		{"update to the same key", update(name, second), wantOK()},
		{"update to a signing key", update(name, a.signing(t)), unfit(a.signing(t))},
		{"update to an HMAC key", update(name, a.authenticating(t)), unfit(a.authenticating(t))},
		{"update to no key", update(name, unknown), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
		{"schedule the deletion of a third", func(ctx context.Context) error {
			return rig.ErrOf(a.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: third}))
		}, wantOK()},
		{"update to a key pending deletion", update(name, third), invalidState(keyARN(third), "pending deletion")},
		{"update nothing", update("alias/none", first), notFound("Alias %s is not found.", rig.ARN("alias/none"))},
		{"without the prefix", create("life", first), prefix},
		{"prefix alone", create("alias/", first), prefix},
		{"update without the prefix", update("life", first), prefix},
		{"delete without the prefix", remove("life"), prefix},
		{"of AWS", create("alias/aws/s3", first), wantCode("NotAuthorizedException")},
		{"update of AWS", update("alias/aws/s3", first), wantCode("NotAuthorizedException")},
		{"delete of AWS", remove("alias/aws/s3"), wantCode("NotAuthorizedException")},
		{"much like AWS's", create("alias/awsome-"+*first, first), wantOK()},
		{"with slashes", create("alias/a/b/c-"+*first, first), wantOK()},
		{"with a colon", create("alias/a:b", first), validation("alias/a:b contains invalid characters for an alias")},
		{"longest", create("alias/"+strings.Repeat("x", 250), first), wantOK()},
		{"too long", create("alias/"+strings.Repeat("x", 251), first), wantCode("ValidationException")},
		{"to an alias", create("alias/second-"+*first, &name), validation("Aliases must refer to keys. Not aliases")},
		{"to an alias ARN", create("alias/second-"+*first, aws.String(rig.ARN(name))), validation("Aliases must refer to keys. Not aliases")},
		{"to a key ARN", create("alias/by-arn-"+*first, aws.String(keyARN(first))), wantOK()},
		{"to an invalid key", create("alias/second-"+*first, aws.String("key")), notFound("Invalid keyId 'key'")},
		{"delete", remove(name), wantOK()},
		{"delete again", remove(name), notFound("Alias %s is not found.", rig.ARN(name))},
		{"use after deletion", pointsTo(second), notFound("Alias %s is not found.", rig.ARN(name))},
		{"create anew", create(name, first), wantOK()},
	})
	t.Run("list", func(t *testing.T) {
		out, err := a.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: aws.String(keyARN(first))})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range out.Aliases {
			names = append(names, *e.AliasName)
			if *e.TargetKeyId != *first || *e.AliasArn != rig.ARN(*e.AliasName) || e.CreationDate == nil || e.LastUpdatedDate == nil {
				t.Errorf("entry %+v", e)
			}
		}
		if len(names) != 5 || !slices.IsSorted(names) || !slices.Contains(names, name) {
			t.Errorf("the key has %v", names)
		}
	})
}

// testTags: TagException and its texts; the order of tags is that in which
// they came, and a new value does not move one.
func testTags(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{Tags: tags("one", "1", "two", "2")})
	many := func(prefix string, n int) (list []types.Tag) {
		for i := range n {
			list = append(list, tags(fmt.Sprintf("%s%02d", prefix, i), "")...)
		}
		return list
	}
	tag := func(id *string, list []types.Tag) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.TagResource(ctx, &kms.TagResourceInput{KeyId: id, Tags: list}))
		}
	}
	untag := func(keys ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.UntagResource(ctx, &kms.UntagResourceInput{KeyId: id, TagKeys: keys}))
		}
	}
	create := func(list []types.Tag) func(context.Context) error {
		return func(ctx context.Context) error { return rig.ErrOf(a.CreateKey(ctx, &kms.CreateKeyInput{Tags: list})) }
	}
	has := func(pairs ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := a.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: id})
			if err != nil {
				return err
			}
			var got []string
			for _, e := range out.Tags {
				got = append(got, aws.ToString(e.TagKey), aws.ToString(e.TagValue))
			}
			if !slices.Equal(got, pairs) {
				return fmt.Errorf("the key has %v, want %v", got, pairs)
			}
			return nil
		}
	}
	duplicate := wantError("TagException", "Duplicate tag keys")
	reserved := wantError("TagException", "Tags beginning with aws: are reserved")
	tooMany := wantError("TagException", "Too many tags")
	runCalls(t, []call{
		{"of CreateKey", has("one", "1", "two", "2"), wantOK()},
		{"new value in place", tag(id, tags("three", "3", "one", "I")), wantOK()},
		{"order", has("one", "I", "two", "2", "three", "3"), wantOK()},
		{"case counts", tag(id, tags("One", "1")), wantOK()},
		{"both", has("one", "I", "two", "2", "three", "3", "One", "1"), wantOK()},
		{"duplicate", tag(id, tags("a", "1", "a", "2")), duplicate},
		{"duplicate at creation", create(tags("a", "1", "a", "2")), duplicate},
		{"reserved", tag(id, tags("aws:a", "1")), reserved},
		{"reserved in capitals", tag(id, tags("AWS:a", "1")), reserved},
		{"reserved at creation", create(tags("aWs:a", "1")), reserved},
		{"remove reserved", untag("aws:a"), reserved},
		{"remove", untag("two", "One"), wantOK()},
		{"remove what is not there", untag("two", "none"), wantOK()},
		{"after removal", has("one", "I", "three", "3"), wantOK()},
		{"empty value", tag(id, tags("empty", "")), wantOK()},
		{"characters of Unicode", tag(id, tags("größe", "±1 €")), wantOK()},
		{"all", has("one", "I", "three", "3", "empty", "", "größe", "±1 €"), wantOK()},
		{"51 at creation", create(many("t", 51)), tooMany},
		{"up to 50", tag(id, many("t", 46)), wantOK()},
		{"one more", tag(id, tags("more", "")), tooMany},
		{"a new value at 50", tag(id, tags("one", "1")), wantOK()},
		{"of no key", tag(aws.String(unknownID), tags("a", "b")), notFound("Key '%s' does not exist", rig.ARN("key/"+unknownID))},
	})
}

// testDescriptions: any text of up to 8,192 characters, the empty one too.
func testDescriptions(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{Description: aws.String("first")})
	for _, text := range []string{"second", "", "größer ± <&> \"\\\n\u2028", strings.Repeat("é", 8192)} {
		if _, err := a.UpdateKeyDescription(t.Context(), &kms.UpdateKeyDescriptionInput{KeyId: id, Description: &text}); err != nil {
			t.Fatal(err)
		}
		out, err := a.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: id})
		if err != nil || *out.KeyMetadata.Description != text {
			t.Errorf("the description is %.20q, %v, want %.20q", aws.ToString(out.KeyMetadata.Description), err, text)
		}
	}
}
