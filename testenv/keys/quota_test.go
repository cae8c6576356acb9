package keys

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestQuotas reaches every quota of the configuration, and room is made again.
func TestQuotas(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: []string{"eu-west-1"}, Tables: `
[limits]
keys = 3
aliases_per_key = 2
grants_per_key = 2
request_rates = { GenerateRandom = 0.001 }
`})
	c, ctx := r.Client(""), t.Context()
	over := func(what string, err error) {
		t.Helper()
		if rig.Code(err) != "LimitExceededException" {
			t.Errorf("%s over its quota: %v", what, err)
		}
	}
	var ids []string
	for range 3 {
		ids = append(ids, rig.NewKey(t, c, &kms.CreateKeyInput{}))
	}
	over("CreateKey", rig.ErrOf(c.CreateKey(ctx, &kms.CreateKeyInput{})))
	if got, want := rig.Message(rig.ErrOf(c.CreateKey(ctx, &kms.CreateKeyInput{}))), "Key quota for this account in this region is 3 but the current usage is 3."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	over("CreateKey without material", rig.ErrOf(c.CreateKey(ctx, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})))
	rig.NewKey(t, r.Client("eu-west-1"), &kms.CreateKeyInput{}) // another Region has its own quota
	if n := len(rig.Objects(t, r, "cmkd:")) - 3; n != 4+1 {     // the daemon's own: a key, a MAC key, a pair of two objects
		t.Errorf("the token has %d objects more than the keys: a refused key is left in it", n)
	}
	schedule(t, c, ids[2], 7)
	over("CreateKey while one is pending deletion", rig.ErrOf(c.CreateKey(ctx, &kms.CreateKeyInput{})))
	cl.Pass(t, r, 7*rig.Day, rig.Day)
	rig.NewKey(t, c, &kms.CreateKeyInput{})

	alias := func(i int) error {
		return rig.ErrOf(c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprintf("alias/a%d", i)), TargetKeyId: &ids[0]}))
	}
	for i := range 2 {
		if err := alias(i); err != nil {
			t.Fatal(err)
		}
	}
	over("CreateAlias", alias(2))
	if got, want := rig.Message(alias(2)), "Aliases per key quota for this account in this region is 2, current usage is 2."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	grant := func(i int) error {
		return rig.ErrOf(c.CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &ids[0], GranteePrincipal: aws.String("arn:aws:iam::" + rig.Account + ":root"),
			Operations: []types.GrantOperation{types.GrantOperationDecrypt}, Name: aws.String(fmt.Sprintf("g%d", i)),
		}))
	}
	for i := range 2 {
		if err := grant(i); err != nil {
			t.Fatal(err)
		}
	}
	over("CreateGrant", grant(2))
	if err := grant(1); err != nil {
		t.Errorf("the same grant again: %v", err)
	}

	random := func() error {
		return rig.ErrOf(c.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(8)}))
	}
	if err := random(); err != nil {
		t.Errorf("the first call: %v", err)
	}
	if err := random(); rig.Code(err) != "ThrottlingException" {
		t.Errorf("a call over its rate: %v", err)
	}
	rig.Seal(t, c, ids[0], "other operations have no rate")
}
