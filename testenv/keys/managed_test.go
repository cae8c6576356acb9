package keys

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestManagedKey: a key of the configuration is made at its first use in each
// Region, is used and rotates, and root itself cannot change it.
func TestManagedKey(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: []string{"eu-west-1"}, Tables: `
[[managed_key]]
alias = "alias/aws/backup"
description = "Protects backups"
users = ["*"]
[[managed_key]]
alias = "alias/aws/others"
users = ["arn:aws:iam::` + rig.Account + `:user/somebody"]
[principals]
known = ["arn:aws:iam::` + rig.Account + `:user/somebody"]
`})
	c, ctx := r.Client(""), t.Context()
	const alias = "alias/aws/backup"
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/zoo"), TargetKeyId: aws.String(rig.NewKey(t, c, &kms.CreateKeyInput{}))}); err != nil {
		t.Fatal(err)
	}
	aliases := func() (list []string) {
		t.Helper()
		pages := kms.NewListAliasesPaginator(c, &kms.ListAliasesInput{Limit: aws.Int32(1)})
		for pages.HasMorePages() {
			out, err := pages.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range out.Aliases {
				name := *a.AliasName
				if a.TargetKeyId == nil && a.CreationDate == nil {
					name += " without a key"
				}
				list = append(list, name)
			}
		}
		return list
	}
	want := []string{"alias/aws/backup without a key", "alias/aws/others without a key", "alias/zoo"}
	if got := aliases(); !slices.Equal(got, want) {
		t.Errorf("before its first use: aliases %q, want %q", got, want)
	}
	var first sync.WaitGroup
	for range 8 {
		first.Go(func() {
			if _, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(alias), Plaintext: []byte("x")}); err != nil {
				t.Errorf("first use: %v", err)
			}
		})
	}
	first.Wait()
	want[0] = "alias/aws/backup"
	if got := aliases(); !slices.Equal(got, want) {
		t.Errorf("after its first use: aliases %q, want %q", got, want)
	}
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	if err != nil {
		t.Fatal(err)
	}
	id := *meta.KeyMetadata.KeyId
	if meta.KeyMetadata.KeyManager != types.KeyManagerTypeAws || *meta.KeyMetadata.Description != "Protects backups" {
		t.Errorf("DescribeKey: %+v", meta.KeyMetadata)
	}
	if list, err := c.ListKeys(ctx, &kms.ListKeysInput{}); err != nil || len(list.Keys) != 2 {
		t.Errorf("ListKeys: %d keys, %v", len(list.Keys), err)
	}
	secret := rig.Seal(t, c, alias, "secret")
	if _, err := r.Client("eu-west-1").Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.Blob}); rig.Code(err) == "" {
		t.Error("the key of another Region opens the ciphertext")
	}
	europe, err := r.Client("eu-west-1").DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	if err != nil || *europe.KeyMetadata.KeyId == id {
		t.Errorf("DescribeKey in another Region: %v", err)
	}
	own := rig.NewKey(t, c, &kms.CreateKeyInput{})
	for what, tt := range map[string]struct {
		err  error
		want string
	}{
		"ScheduleKeyDeletion":  {rig.ErrOf(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id})), "AccessDeniedException"},
		"DisableKey":           {rig.ErrOf(c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id})), "AccessDeniedException"},
		"DisableKeyRotation":   {rig.ErrOf(c.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &id})), "AccessDeniedException"},
		"EnableKeyRotation":    {rig.ErrOf(c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id})), "AccessDeniedException"},
		"RotateKeyOnDemand":    {rig.ErrOf(c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})), "AccessDeniedException"},
		"PutKeyPolicy":         {rig.ErrOf(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: aws.String("{}")})), "AccessDeniedException"},
		"UpdateKeyDescription": {rig.ErrOf(c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String("mine")})), "AccessDeniedException"},
		"TagResource":          {rig.ErrOf(c.TagResource(ctx, &kms.TagResourceInput{KeyId: &id, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})), "AccessDeniedException"},
		"CreateGrant":          {rig.ErrOf(c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":root"), Operations: []types.GrantOperation{"Decrypt"}})), "AccessDeniedException"},
		"CreateAlias":          {rig.ErrOf(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/mine"), TargetKeyId: &id})), "AccessDeniedException"},
		"UpdateAlias":          {rig.ErrOf(c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(alias), TargetKeyId: &own})), "NotAuthorizedException"},
		"DeleteAlias":          {rig.ErrOf(c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String(alias)})), "NotAuthorizedException"},
		"an alias like it":     {rig.ErrOf(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/aws/mine"), TargetKeyId: &own})), "NotAuthorizedException"},
		"a user of another":    {rig.ErrOf(c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/aws/others"), Plaintext: []byte("x")})), "AccessDeniedException"},
		"GetKeyPolicy":         {rig.ErrOf(c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &id})), ""},
		"ListGrants":           {rig.ErrOf(c.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &id})), ""},
		"ListResourceTags":     {rig.ErrOf(c.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &id})), ""},
		"one not declared":     {rig.ErrOf(c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/aws/nothing")})), "NotFoundException"},
	} {
		if rig.Code(tt.err) != tt.want {
			t.Errorf("%s: %v, want %q", what, tt.err, tt.want)
		}
	}
	if got := aliases(); !slices.Equal(got, want) {
		t.Errorf("after a call that was refused: aliases %q, want %q", got, want)
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.KeyRotationEnabled || !status.NextRotationDate.Equal(cl.Now().Add(365*rig.Day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	cl.Pass(t, r, 366*rig.Day, 6*rig.Day)
	if list := rig.Rotations(t, c, id); len(list) != 1 || list[0].RotationType != types.RotationTypeAutomatic {
		t.Errorf("rotations after a year: %+v", list)
	}
	secret.Open(t, c)
}

// TestManagedKeyOutOfConfiguration: a managed key that has left the configuration
// is nobody's to use, and administrators may delete it.
func TestManagedKeyOutOfConfiguration(t *testing.T) {
	t.Parallel()
	const alias = "alias/aws/backup"
	table := "[[managed_key]]\nalias = \"" + alias + "\"\nusers = [\"*\"]\n"
	r := rig.New(t, rig.Config{World: true, Tables: table})
	ctx := t.Context()
	secret := rig.Seal(t, r.Client(""), alias, "secret")
	restart := func(change func(text string) string) {
		t.Helper()
		if err := r.Stop(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.Path, []byte(change(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		r.Start(t)
	}
	restart(func(text string) string { return strings.Replace(text, table, "", 1) })
	c := r.Client("")
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	if err != nil {
		t.Fatal(err)
	}
	id := meta.KeyMetadata.KeyId
	schedule := &kms.ScheduleKeyDeletionInput{KeyId: id}
	rig.Outcome(t, "root uses the key", rig.ErrOf(c.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")})), rig.Denied)
	rig.Outcome(t, "a user uses the key", rig.EncryptWith(t, r.As(t, rig.App), *id), rig.Denied)
	rig.Outcome(t, "a user deletes the key", rig.ErrOf(r.As(t, rig.App).ScheduleKeyDeletion(ctx, schedule)), rig.Denied)
	rig.Outcome(t, "root gives the key a policy", rig.ErrOf(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""))})), rig.Denied)
	rig.Outcome(t, "root deletes the key", rig.ErrOf(c.ScheduleKeyDeletion(ctx, schedule)), "")
	rig.Outcome(t, "root thinks again", rig.ErrOf(c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: id})), "")
	rig.Outcome(t, "root enables the key", rig.ErrOf(c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id})), "")

	restart(func(text string) string { return text + table })
	c = r.Client("")
	secret.Open(t, c)
	rig.Outcome(t, "root deletes a key of the configuration", rig.ErrOf(c.ScheduleKeyDeletion(ctx, schedule)), rig.Denied)
}
