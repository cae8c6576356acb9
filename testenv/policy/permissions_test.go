package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestTwoPermissions: operations that need more than one permission are refused
// without either. The users have one each, or both.
func TestTwoPermissions(t *testing.T) {
	t.Parallel()
	const west = "eu-west-1"
	dir := t.TempDir()
	users := map[string]rig.User{}
	for i, row := range []struct{ name, actions, condition string }{
		{"create", `"kms:CreateKey","kms:PutKeyPolicy"`, ""},
		{"create and tag", `"kms:CreateKey","kms:PutKeyPolicy","kms:TagResource"`, ""},
		{"create and tag prod", `"kms:CreateKey","kms:PutKeyPolicy","kms:TagResource"`, `{"StringEquals":{"aws:RequestTag/stage":"prod"}}`},
		{"replicate", `"kms:ReplicateKey","kms:PutKeyPolicy"`, ""},
		{"replicate and create", `"kms:ReplicateKey","kms:CreateKey","kms:PutKeyPolicy"`, ""},
		{"replicate and create at home", `"kms:ReplicateKey","kms:CreateKey","kms:PutKeyPolicy"`, `{"StringEquals":{"aws:RequestedRegion":"us-east-1"}}`},
		{"alias", `"kms:CreateAlias","kms:DeleteAlias"`, ""},
	} {
		u := rig.User{UID: 61020 + uint32(i), GID: 61020 + uint32(i)}
		users[row.name] = u
		condition := ""
		if row.condition != "" {
			condition = `,"Condition":` + row.condition
		}
		folder := filepath.Join(dir, "user", fmt.Sprintf("uid-%d", u.UID))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[%s],"Resource":"*"%s}]}`, row.actions, condition)
		if err := os.WriteFile(filepath.Join(folder, "p.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := rig.New(t, rig.Config{World: true, Regions: []string{west}, Extra: fmt.Sprintf("identity_policies = %q", dir)})
	ctx, root := t.Context(), r.Client("")
	as := func(name string) *kms.Client { return r.As(t, users[name]) }
	tagged := &kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("stage"), TagValue: aws.String("prod")}}}

	for _, tt := range []struct {
		who  string
		in   *kms.CreateKeyInput
		code string
	}{
		{"create", &kms.CreateKeyInput{}, ""},
		{"create", tagged, rig.Denied},
		{"create and tag", tagged, ""},
		{"create and tag prod", tagged, ""},
		{"create and tag prod", &kms.CreateKeyInput{}, rig.Denied},
	} {
		_, err := as(tt.who).CreateKey(ctx, tt.in)
		rig.Outcome(t, fmt.Sprintf("CreateKey with %d tags by %q", len(tt.in.Tags), tt.who), err, tt.code)
	}

	primary := rig.NewKey(t, root, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	for _, tt := range []struct {
		who  string
		tags []types.Tag
		code string
	}{
		{"replicate", nil, rig.Denied},
		{"create", nil, rig.Denied},
		{"replicate and create at home", nil, rig.Denied},
		{"replicate and create", tagged.Tags, rig.Denied},
		{"replicate and create", nil, ""},
	} {
		_, err := as(tt.who).ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &primary, ReplicaRegion: aws.String(west), Tags: tt.tags})
		rig.Outcome(t, fmt.Sprintf("ReplicateKey with %d tags by %q", len(tt.tags), tt.who), err, tt.code)
	}

	// The permission to change the primary is needed on both keys.
	allow := rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(rig.Operator.ARN(), `"kms:UpdatePrimaryRegion"`, ""))
	if _, err := root.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &primary, Policy: allow}); err != nil {
		t.Fatal(err)
	}
	move := func() error {
		_, err := r.As(t, rig.Operator).UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: &primary, PrimaryRegion: aws.String(west)})
		return err
	}
	rig.Outcome(t, "UpdatePrimaryRegion with the old primary alone", move(), rig.Denied)
	if _, err := r.Client(west).PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &primary, Policy: allow}); err != nil {
		t.Fatal(err)
	}
	rig.Outcome(t, "UpdatePrimaryRegion with both", move(), "")

	// An alias and its key.
	open := rig.NewKey(t, root, &kms.CreateKeyInput{})
	shut := rig.NewKey(t, root, &kms.CreateKeyInput{Policy: rig.KeyPolicy(rig.Allowing(rig.RootARN, `"kms:PutKeyPolicy"`, ""), rig.Allowing(rig.Operator.ARN(), `"kms:*Alias"`, ""))})
	alias := func(c *kms.Client, key string) error {
		_, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/a"), TargetKeyId: &key})
		return err
	}
	rig.Outcome(t, "CreateAlias with the alias alone", alias(as("alias"), shut), rig.Denied)
	rig.Outcome(t, "CreateAlias with the key alone", alias(r.As(t, rig.Operator), shut), rig.Denied)
	rig.Outcome(t, "CreateAlias with both", alias(as("alias"), open), "")
	for who, c := range map[string]*kms.Client{"the key's": r.As(t, rig.Operator), "a stranger's": r.As(t, rig.Stranger)} {
		_, err := c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String("alias/a")})
		rig.Outcome(t, "DeleteAlias, "+who, err, rig.Denied)
	}
	_, err := as("alias").DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String("alias/a")})
	rig.Outcome(t, "DeleteAlias with both", err, "")
}
