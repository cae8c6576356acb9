package keys

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

func replicate(t *testing.T, c *kms.Client, id, region string) {
	t.Helper()
	out, err := c.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &id, ReplicaRegion: &region})
	if err != nil {
		t.Fatalf("ReplicateKey: %v", err)
	}
	if out.ReplicaKeyMetadata.MultiRegionConfiguration.MultiRegionKeyType != types.MultiRegionKeyTypeReplica {
		t.Errorf("ReplicateKey: %+v", out.ReplicaKeyMetadata)
	}
}

// TestMultiRegion: the keys of one multi-Region key open each other's
// ciphertexts and share the rotation, which is the primary's to change.
func TestMultiRegion(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	regions := []string{"eu-west-1", "ap-south-1"}
	r := rig.New(t, rig.Config{Now: cl.Now, Regions: regions})
	home, europe, asia, ctx := r.Client(""), r.Client(regions[0]), r.Client(regions[1]), t.Context()
	all := []*kms.Client{home, europe, asia}
	id := rig.NewKey(t, home, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	if !strings.HasPrefix(id, "mrk-") {
		t.Errorf("key ID %s", id)
	}
	if got := rig.State(t, europe, id); got != "NotFoundException" {
		t.Errorf("before it is replicated the key is %s in another Region", got)
	}
	replicate(t, home, id, regions[0])
	replicate(t, home, id, regions[1])

	var sealedEverywhere []rig.Sealed
	sealAll := func(text string) {
		t.Helper()
		for _, c := range all {
			sealedEverywhere = append(sealedEverywhere, rig.Seal(t, c, id, text))
		}
	}
	openAll := func() {
		t.Helper()
		for _, s := range sealedEverywhere {
			for _, c := range all {
				if got := s.Open(t, c); got != s.Material {
					t.Errorf("%s opened with material %s", s.Plaintext, got)
				}
			}
		}
	}
	sealAll("first")
	openAll()
	refused := func(what string, err error) {
		t.Helper()
		if rig.Code(err) != "UnsupportedOperationException" || !strings.HasSuffix(err.Error(), ":key/"+id+" is not a multi-region primary key.") {
			t.Errorf("%s at a replica: %v", what, err)
		}
	}
	refused("EnableKeyRotation", rig.ErrOf(europe.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id})))
	refused("RotateKeyOnDemand", rig.ErrOf(europe.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})))
	refused("ReplicateKey", rig.ErrOf(europe.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &id, ReplicaRegion: aws.String(regions[1])})))
	refused("UpdatePrimaryRegion", rig.ErrOf(europe.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: &id, PrimaryRegion: aws.String(regions[1])})))
	if err := rig.ErrOf(home.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: &id, ReplicaRegion: aws.String(regions[1])})); rig.Code(err) != "AlreadyExistsException" {
		t.Errorf("ReplicateKey again: %v", err)
	}

	if _, err := home.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &id, RotationPeriodInDays: aws.Int32(100)}); err != nil {
		t.Fatal(err)
	}
	next := cl.Now().Add(100 * rig.Day)
	same := func(next time.Time, count int) {
		t.Helper()
		for _, c := range all {
			out, err := c.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &id})
			if err != nil || !out.KeyRotationEnabled || aws.ToInt32(out.RotationPeriodInDays) != 100 || !aws.ToTime(out.NextRotationDate).Equal(next) {
				t.Errorf("GetKeyRotationStatus: %+v, %v", out, err)
			}
			if n := len(rig.Rotations(t, c, id)); n != count {
				t.Errorf("%d rotations, want %d", n, count)
			}
			if got, want := rig.Current(t, c, id), rig.Current(t, home, id); got != want {
				t.Errorf("material %s here and %s there", got, want)
			}
		}
	}
	same(next, 0)
	cl.Pass(t, r, 100*rig.Day, 10*rig.Day)
	same(next.Add(100*rig.Day), 1)
	sealAll("after the rotation")
	openAll()

	if _, err := home.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: &id, PrimaryRegion: &regions[0]}); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil || *meta.KeyMetadata.MultiRegionConfiguration.PrimaryKey.Region != regions[0] || len(meta.KeyMetadata.MultiRegionConfiguration.ReplicaKeys) != 2 {
			t.Errorf("DescribeKey: %+v, %v", meta, err)
		}
	}
	same(next.Add(100*rig.Day), 1)
	if err := rig.ErrOf(home.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id})); rig.Code(err) != "UnsupportedOperationException" {
		t.Errorf("RotateKeyOnDemand at the old primary: %v", err)
	}
	if _, err := europe.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &id}); err != nil {
		t.Errorf("RotateKeyOnDemand at the new primary: %v", err)
	}
	cl.Pass(t, r, 100*rig.Day, 10*rig.Day)
	same(next.Add(200*rig.Day), 3)
	openAll()

	// What is each Region's own.
	if _, err := asia.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	if _, err := asia.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: &id, Description: aws.String("in Asia")}); err != nil {
		t.Fatal(err)
	}
	if got := rig.State(t, asia, id); got != "Disabled" {
		t.Errorf("the replica is %s", got)
	}
	for _, c := range all[:2] {
		meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil || meta.KeyMetadata.KeyState != types.KeyStateEnabled || aws.ToString(meta.KeyMetadata.Description) != "" {
			t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
		}
	}
	if err := rig.ErrOf(europe.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: &id, PrimaryRegion: &regions[1]})); rig.Code(err) != "DisabledException" {
		t.Errorf("UpdatePrimaryRegion to a disabled replica: %v", err)
	}
	if got := rig.Labels(id, 4); len(rig.Objects(t, r, id)) != len(got) {
		t.Errorf("the token has %v, want %v", rig.Objects(t, r, id), got)
	}
}

// TestMultiRegionImport: the replicas share imported material too.
func TestMultiRegionImport(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{World: true, Regions: []string{"eu-west-1"}})
	home, europe, ctx := r.Client(""), r.Client("eu-west-1"), t.Context()
	m := rig.NewImport(t, home)
	m.ID = rig.NewKey(t, home, &kms.CreateKeyInput{Origin: types.OriginTypeExternal, MultiRegion: aws.Bool(true)})
	m.Run(t)
	replicate(t, home, m.ID, "eu-west-1")
	secret := rig.Seal(t, home, m.ID, "secret")
	secret.Open(t, europe)

	// Whoever administers one Region's key does not take the material from the
	// others.
	if _, err := europe.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &m.ID, Policy: rig.KeyPolicy(
		rig.Allowing(rig.RootARN, `"kms:*"`, ""), rig.Allowing(rig.Operator.ARN(), `"kms:DescribeKey","kms:DeleteImportedKeyMaterial"`, ""),
	)}); err != nil {
		t.Fatal(err)
	}
	inEurope := r.As(t, rig.Operator, func(o *kms.Options) { o.Region = "eu-west-1" })
	_, err := inEurope.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID})
	rig.Outcome(t, "DeleteImportedKeyMaterial of one Region's administrator", err, rig.Denied)
	if got := rig.State(t, inEurope, m.ID); got != "Enabled" {
		t.Errorf("the key is %s", got)
	}
	for range 2 {
		if _, err := home.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID}); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*kms.Client{home, europe} {
			if got := rig.State(t, c, m.ID); got != "PendingImport" {
				t.Errorf("the key is %s without material", got)
			}
		}
		away := *m
		away.Client = europe // either Region may bring it back
		away.Run(t)
		secret.Open(t, home)
		secret.Open(t, europe)
	}
}
