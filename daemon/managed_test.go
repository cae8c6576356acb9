package daemon_test

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
	cl := newClock()
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
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/zoo"), TargetKeyId: aws.String(newKey(t, c, &kms.CreateKeyInput{}))}); err != nil {
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
	secret := seal(t, c, alias, "secret")
	if _, err := r.Client("eu-west-1").Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.blob}); code(err) == "" {
		t.Error("the key of another Region opens the ciphertext")
	}
	europe, err := r.Client("eu-west-1").DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(alias)})
	if err != nil || *europe.KeyMetadata.KeyId == id {
		t.Errorf("DescribeKey in another Region: %v", err)
	}
	own := newKey(t, c, &kms.CreateKeyInput{})
	for what, tt := range map[string]struct {
		err  error
		want string
	}{
		"ScheduleKeyDeletion":  {second(c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id})), "AccessDeniedException"},
		"DisableKey":           {second(c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id})), "AccessDeniedException"},
		"DisableKeyRotation":   {second(c.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &id})), "AccessDeniedException"},
		"EnableKeyRotation":    {second(c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id})), "AccessDeniedException"},
		"RotateKeyOnDemand":    {second(c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})), "AccessDeniedException"},
		"PutKeyPolicy":         {second(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &id, Policy: aws.String("{}")})), "AccessDeniedException"},
		"UpdateKeyDescription": {second(c.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String("mine")})), "AccessDeniedException"},
		"TagResource":          {second(c.TagResource(ctx, &kms.TagResourceInput{KeyId: &id, Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}})), "AccessDeniedException"},
		"CreateGrant":          {second(c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &id, GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":root"), Operations: []types.GrantOperation{"Decrypt"}})), "AccessDeniedException"},
		"CreateAlias":          {second(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/mine"), TargetKeyId: &id})), "AccessDeniedException"},
		"UpdateAlias":          {second(c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(alias), TargetKeyId: &own})), "NotAuthorizedException"},
		"DeleteAlias":          {second(c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String(alias)})), "NotAuthorizedException"},
		"an alias like it":     {second(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/aws/mine"), TargetKeyId: &own})), "NotAuthorizedException"},
		"a user of another":    {second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/aws/others"), Plaintext: []byte("x")})), "AccessDeniedException"},
		"GetKeyPolicy":         {second(c.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &id})), ""},
		"ListGrants":           {second(c.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &id})), ""},
		"ListResourceTags":     {second(c.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &id})), ""},
		"one not declared":     {second(c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/aws/nothing")})), "NotFoundException"},
	} {
		if code(tt.err) != tt.want {
			t.Errorf("%s: %v, want %q", what, tt.err, tt.want)
		}
	}
	if got := aliases(); !slices.Equal(got, want) {
		t.Errorf("after a call that was refused: aliases %q, want %q", got, want)
	}
	status, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
	if err != nil || !status.KeyRotationEnabled || !status.NextRotationDate.Equal(cl.Now().Add(365*day)) {
		t.Errorf("GetKeyRotationStatus: %+v, %v", status, err)
	}
	cl.pass(t, r, 366*day, 6*day)
	if list := rotations(t, c, id); len(list) != 1 || list[0].RotationType != types.RotationTypeAutomatic {
		t.Errorf("rotations after a year: %+v", list)
	}
	secret.open(t, c)
}

// TestManagedKeyOutOfConfiguration: a managed key that has left the configuration
// is nobody's to use, and administrators may delete it.
func TestManagedKeyOutOfConfiguration(t *testing.T) {
	t.Parallel()
	const alias = "alias/aws/backup"
	table := "[[managed_key]]\nalias = \"" + alias + "\"\nusers = [\"*\"]\n"
	r := rig.New(t, rig.Config{World: true, Tables: table})
	ctx := t.Context()
	secret := seal(t, r.Client(""), alias, "secret")
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
	outcome(t, "root uses the key", second(c.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: []byte("x")})), denied)
	outcome(t, "a user uses the key", encryptWith(t, r.As(t, app), *id), denied)
	outcome(t, "a user deletes the key", second(r.As(t, app).ScheduleKeyDeletion(ctx, schedule)), denied)
	outcome(t, "root gives the key a policy", second(c.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: id, Policy: keyPolicy(allowing(rootARN, `"kms:*"`, ""))})), denied)
	outcome(t, "root deletes the key", second(c.ScheduleKeyDeletion(ctx, schedule)), "")
	outcome(t, "root thinks again", second(c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: id})), "")
	outcome(t, "root enables the key", second(c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id})), "")

	restart(func(text string) string { return text + table })
	c = r.Client("")
	secret.open(t, c)
	outcome(t, "root deletes a key of the configuration", second(c.ScheduleKeyDeletion(ctx, schedule)), denied)
}
