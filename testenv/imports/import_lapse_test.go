package imports

import (
	"regexp"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestImportExpires: the material goes at its time, and comes back by hand.
func TestImportExpires(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m := rig.NewImport(t, c)
	for _, tt := range []struct {
		model types.ExpirationModelType
		to    *time.Time
	}{
		{"", nil},
		{types.ExpirationModelTypeKeyMaterialExpires, nil},
		{types.ExpirationModelTypeKeyMaterialDoesNotExpire, aws.Time(cl.Now().Add(rig.Day))},
		{types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now())},
		{types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(366 * rig.Day))},
	} {
		in := m.Parameters(t)
		in.ExpirationModel, in.ValidTo = tt.model, tt.to
		if _, err := c.ImportKeyMaterial(ctx, in); rig.Code(err) != "ValidationException" {
			t.Errorf("%s until %v: %v", tt.model, tt.to, err)
		}
	}
	in := m.Parameters(t)
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(10*rig.Day))
	if _, err := c.ImportKeyMaterial(ctx, in); err != nil {
		t.Fatal(err)
	}
	secret := rig.Seal(t, c, m.ID, "secret")
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.ID})
	if err != nil || meta.KeyMetadata.ExpirationModel != types.ExpirationModelTypeKeyMaterialExpires || !meta.KeyMetadata.ValidTo.Equal(*in.ValidTo) {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	cl.Pass(t, r, 10*rig.Day-time.Second, rig.Day)
	secret.Open(t, c)
	cl.Jump(time.Second) // the jobs have not run
	if _, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.Blob}); rig.Code(err) != "KMSInvalidStateException" {
		t.Errorf("Decrypt at the moment of expiry: %v", err)
	}
	rig.RunJobs(t, r)
	if got := rig.Objects(t, r, "cmkd:"+m.ID); len(got) != 0 {
		t.Errorf("expired material is left: %v", got)
	}
	cl.Jump(-5 * rig.Day)
	rig.RunJobs(t, r)
	if got := rig.State(t, c, m.ID); got != "PendingImport" {
		t.Errorf("the key is %s after the clock went back", got)
	}
	m.Run(t)
	secret.Open(t, c)
	meta, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.ID})
	if err != nil || meta.KeyMetadata.ValidTo != nil {
		t.Errorf("DescribeKey of material that does not expire: %+v, %v", meta.KeyMetadata, err)
	}

	// A jump of the clock destroys no material.
	short := rig.NewImport(t, c)
	in = short.Parameters(t)
	in.ExpirationModel, in.ValidTo = types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(10*rig.Day))
	if _, err := c.ImportKeyMaterial(ctx, in); err != nil {
		t.Fatal(err)
	}
	cl.Jump(20 * rig.Day)
	rig.RunJobs(t, r)
	if got := rig.State(t, c, short.ID); got != "PendingImport" || len(rig.Objects(t, r, "cmkd:"+short.ID)) != 1 {
		t.Errorf("after a jump the key is %s and the token has %v", got, rig.Objects(t, r, "cmkd:"+short.ID))
	}
}

// TestImportRotates: new material waits until it is rotated to; old material
// goes on decrypting; a key that lacks any of them is pending import.
func TestImportRotates(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	m := rig.NewImport(t, c)
	m.Run(t)
	old := rig.Seal(t, c, m.ID, "old")
	rotate := func(want string) {
		t.Helper()
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &m.ID}); rig.Code(err) != want {
			t.Errorf("RotateKeyOnDemand: %v, want %q", err, want)
		}
	}
	rotate("KMSInvalidStateException") // nothing waits
	fresh := *m
	fresh.Dir = t.TempDir()
	rig.OpenSSL(t, fresh.Dir, "rand", "-out", "material.bin", "32")
	in := fresh.Parameters(t)
	in.ImportType, in.KeyMaterialDescription = types.ImportTypeNewKeyMaterial, aws.String("the second one")
	out, err := c.ImportKeyMaterial(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if got := rig.Seal(t, c, m.ID, "still old").Material; got != old.Material || *out.KeyMaterialId == old.Material {
		t.Errorf("material %s is used before the rotation", got)
	}
	third := fresh.Parameters(t)
	third.ImportType = types.ImportTypeNewKeyMaterial
	refused := regexp.MustCompile(`^New key material \(id: [0-9a-f]{64}\) cannot be imported into KMS key ` + regexp.QuoteMeta(rig.ARN("key/"+m.ID)) +
		`, because another key material \(id: ` + *out.KeyMaterialId + `\) is pending rotation\.$`)
	if _, err := c.ImportKeyMaterial(ctx, third); rig.Code(err) != "KMSInvalidStateException" || !refused.MatchString(rig.Message(err)) {
		t.Errorf("a second material that waits: %v", err)
	}
	list, err := c.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: &m.ID, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil || len(list.Rotations) != 2 || list.Rotations[0].KeyMaterialState != types.KeyMaterialStateCurrent ||
		list.Rotations[1].KeyMaterialState != types.KeyMaterialStatePendingRotation || aws.ToString(list.Rotations[1].KeyMaterialDescription) != "the second one" {
		t.Errorf("ListKeyRotations: %+v, %v", list, err)
	}
	rotate("")
	rotate("KMSInvalidStateException")
	newer := rig.Seal(t, c, m.ID, "new")
	if newer.Material != *out.KeyMaterialId {
		t.Errorf("sealed with %s after the rotation", newer.Material)
	}
	old.Open(t, c)
	if n := len(rig.Rotations(t, c, m.ID)); n != 1 {
		t.Errorf("%d rotations", n)
	}

	if _, err := c.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID, KeyMaterialId: &old.Material}); err != nil {
		t.Fatal(err)
	}
	if got := rig.State(t, c, m.ID); got != "PendingImport" {
		t.Errorf("the key is %s without its old material", got)
	}
	back := m.Parameters(t)
	back.KeyMaterialId = &newer.Material
	if _, err := c.ImportKeyMaterial(ctx, back); rig.Code(err) != "IncorrectKeyMaterialException" {
		t.Errorf("the old material in the place of the new: %v", err)
	}
	back.KeyMaterialId = &old.Material
	if _, err := c.ImportKeyMaterial(ctx, back); err != nil {
		t.Fatal(err)
	}
	old.Open(t, c)
	newer.Open(t, c)
	if got := rig.State(t, c, m.ID); got != "Enabled" {
		t.Errorf("the key is %s with all its material", got)
	}
	if _, err := c.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &m.ID}); rig.Code(err) != "UnsupportedOperationException" {
		t.Errorf("EnableKeyRotation of imported material: %v", err)
	}
}
