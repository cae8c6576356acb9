package crash

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

const (
	enabled         = string(types.KeyStateEnabled)
	disabled        = string(types.KeyStateDisabled)
	pendingImport   = string(types.KeyStatePendingImport)
	pendingDeletion = string(types.KeyStatePendingDeletion)

	mostKeys      = 4 // of one caller
	mostRotations = 8 // of one key
	// longPeriod is a rotation period that no run of this test reaches.
	longPeriod = 2560
	cluster    = "cluster-a2b3c4d5e6f"
)

// choices are what callers do, those that are wanted more often with a greater weight.
var choices = []struct {
	weight int
	make   func(*caller) *attempt // nil: there is nothing to do it with
}{
	{6, (*caller).createKey},
	{6, (*caller).rotate},
	{6, (*caller).replicate},
	{2, (*caller).movePrimary},
	{4, (*caller).importMaterial},
	{2, (*caller).deleteMaterial},
	{3, (*caller).scheduleDeletion},
	{2, (*caller).cancelDeletion},
	{3, (*caller).putPolicy},
	{4, (*caller).createGrant},
	{3, (*caller).endGrant},
	{4, (*caller).createAlias},
	{2, (*caller).updateAlias},
	{2, (*caller).deleteAlias},
	{3, (*caller).tag},
	{2, (*caller).untag},
	{2, (*caller).describe},
	{3, (*caller).enableOrDisable},
	{2, (*caller).rotation},
	{4, (*caller).createStore},
	{4, (*caller).connectOrDisconnect},
	{3, (*caller).renameStore},
	{2, (*caller).deleteStore},
	{9, (*caller).prove},
}

func (c *caller) choose() *attempt {
	total := 0
	for _, x := range choices {
		total += x.weight
	}
	n := c.random.IntN(total)
	for _, x := range choices {
		if n -= x.weight; n < 0 {
			return x.make(c)
		}
	}
	return nil
}

// policy is a key policy that says who made it.
func policy(sid string) *string {
	return aws.String(fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Sid":%q,"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::%s:root"},"Action":"kms:*","Resource":"*"}]}`, sid, rig.Account))
}

func nameTag(name string) []types.Tag {
	return []types.Tag{{TagKey: aws.String("crash"), TagValue: &name}}
}

func (c *caller) createKey() *attempt {
	if len(c.names("key/"+c.name+"-*/kind")) >= mostKeys {
		return nil
	}
	return c.creation(target{c.fresh(), rig.Region}, c.pick([]string{"symmetric", "symmetric", "multi-Region", "hmac", "signing", "external", "store"}))
}

// creation creates a key of a kind, with all that CreateKey sets.
func (c *caller) creation(t target, kind string) *attempt {
	in := &kms.CreateKeyInput{Tags: nameTag(t.name), Description: &t.name, Policy: policy("made")}
	state := enabled
	switch kind {
	case "multi-Region":
		in.MultiRegion = aws.Bool(true)
	case "hmac":
		in.KeySpec, in.KeyUsage = types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac
	case "signing":
		in.KeySpec, in.KeyUsage = types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify
	case "external":
		in.Origin, state = types.OriginTypeExternal, pendingImport
	case "store":
		name, connection, id := c.store()
		if name == "" || connection != "CONNECTED" {
			return nil
		}
		in.Origin, in.CustomKeyStoreId = types.OriginTypeAwsCloudhsm, id
	}
	made := change{t.fact("state"): state, t.fact("description"): t.name, t.fact("policy"): "made", t.shared("kind"): kind}
	if kind == "symmetric" || kind == "multi-Region" {
		made[t.shared("versions")], made[t.shared("rotation")] = "1", "0"
	}
	if kind == "multi-Region" {
		made[t.shared("primary")] = rig.Region
	}
	return &attempt{operation: "CreateKey", region: rig.Region, change: made, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		out, err := k.CreateKey(ctx, in, named)
		if err == nil {
			c.learn("key/"+t.name, *out.KeyMetadata.KeyId)
		}
		return err
	}}
}

// on makes an attempt of a call about a key.
func on[In, Out any](c *caller, t target, operation string, in *In, id **string, does change,
	f func(*kms.Client, context.Context, *In, ...func(*kms.Options)) (*Out, error),
) *attempt {
	*id = aws.String(c.id("key/" + t.name))
	return &attempt{operation: operation, region: t.region, change: does, send: func(ctx context.Context, k *kms.Client, named func(*kms.Options)) error {
		_, err := f(k, ctx, in, named)
		return err
	}}
}

// primary picks an enabled key with material of its own to rotate, where it may be
// rotated.
func (c *caller) primary() (target, bool) {
	t, ok := c.target(enabled)
	kind := c.fact(t.shared("kind"))
	if !ok || kind != "symmetric" && kind != "multi-Region" {
		return t, false
	}
	if p := c.fact(t.shared("primary")); p != "" {
		t.region = p
	}
	return t, c.fact(t.fact("state")) == enabled
}

func (c *caller) rotate() *attempt {
	t, ok := c.primary()
	versions, _ := strconv.Atoi(c.fact(t.shared("versions")))
	if !ok || versions > mostRotations {
		return nil
	}
	in := &kms.RotateKeyOnDemandInput{}
	return on(c, t, "RotateKeyOnDemand", in, &in.KeyId, change{t.shared("versions"): strconv.Itoa(versions + 1)}, (*kms.Client).RotateKeyOnDemand)
}

func (c *caller) rotation() *attempt {
	t, ok := c.primary()
	switch {
	case !ok:
		return nil
	case c.fact(t.shared("rotation")) == "0":
		in := &kms.EnableKeyRotationInput{RotationPeriodInDays: aws.Int32(longPeriod)}
		return on(c, t, "EnableKeyRotation", in, &in.KeyId, change{t.shared("rotation"): strconv.Itoa(longPeriod)}, (*kms.Client).EnableKeyRotation)
	default:
		in := &kms.DisableKeyRotationInput{}
		return on(c, t, "DisableKeyRotation", in, &in.KeyId, change{t.shared("rotation"): "0"}, (*kms.Client).DisableKeyRotation)
	}
}

func (c *caller) replicate() *attempt {
	t, ok := c.primary()
	if !ok || c.fact(t.shared("primary")) == "" {
		return nil
	}
	other := target{t.name, otherRegion(t.region)}
	if c.fact(other.fact("state")) != "" {
		return nil
	}
	in := &kms.ReplicateKeyInput{ReplicaRegion: &other.region, Description: aws.String("replica"), Policy: policy("replica"), Tags: nameTag(t.name)}
	return on(c, t, "ReplicateKey", in, &in.KeyId, change{
		other.fact("state"): enabled, other.fact("description"): "replica", other.fact("policy"): "replica",
	}, (*kms.Client).ReplicateKey)
}

func otherRegion(region string) string {
	if region == regions[0] {
		return regions[1]
	}
	return regions[0]
}

func (c *caller) movePrimary() *attempt {
	t, ok := c.primary()
	other := target{t.name, otherRegion(t.region)}
	if !ok || c.fact(t.shared("primary")) == "" || c.fact(other.fact("state")) != enabled {
		return nil
	}
	in := &kms.UpdatePrimaryRegionInput{PrimaryRegion: &other.region}
	return on(c, t, "UpdatePrimaryRegion", in, &in.KeyId, change{t.shared("primary"): other.region}, (*kms.Client).UpdatePrimaryRegion)
}

// importMaterial imports the material of an external key, always the same.
func (c *caller) importMaterial() *attempt {
	t, ok := c.target(pendingImport)
	if !ok {
		return nil
	}
	return c.importInto(t, &kms.ImportKeyMaterialInput{ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire})
}

func (c *caller) importInto(t target, in *kms.ImportKeyMaterialInput) *attempt {
	a := on(c, t, "ImportKeyMaterial", in, &in.KeyId, change{t.fact("state"): enabled}, (*kms.Client).ImportKeyMaterial)
	a.prepare = func(ctx context.Context, k *kms.Client) error { return prepareImport(ctx, k, in) }
	return a
}

// prepareImport wraps the material of a key: what its ID makes.
func prepareImport(ctx context.Context, k *kms.Client, in *kms.ImportKeyMaterialInput) error {
	p, err := k.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
		KeyId: in.KeyId, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
	}, named("prepare"))
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		return err
	}
	material := sha256.Sum256([]byte(*in.KeyId))
	in.ImportToken = p.ImportToken
	in.EncryptedKeyMaterial, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), material[:], nil)
	return err
}

func (c *caller) deleteMaterial() *attempt {
	t, ok := c.target(enabled)
	if !ok || c.fact(t.shared("kind")) != "external" {
		return nil
	}
	in := &kms.DeleteImportedKeyMaterialInput{}
	return on(c, t, "DeleteImportedKeyMaterial", in, &in.KeyId, change{t.fact("state"): pendingImport}, (*kms.Client).DeleteImportedKeyMaterial)
}

// scheduleDeletion schedules that of a key whose rotation is off, which a key that is to
// be deleted shows, and of a primary without replicas.
func (c *caller) scheduleDeletion() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	rotation, primary := c.fact(t.shared("rotation")), c.fact(t.shared("primary"))
	if !ok || rotation != "" && rotation != "0" || primary == t.region && c.fact(target{t.name, otherRegion(t.region)}.fact("state")) != "" {
		return nil
	}
	in := &kms.ScheduleKeyDeletionInput{PendingWindowInDays: aws.Int32(7)}
	return on(c, t, "ScheduleKeyDeletion", in, &in.KeyId, change{t.fact("state"): pendingDeletion}, (*kms.Client).ScheduleKeyDeletion)
}

func (c *caller) cancelDeletion() *attempt {
	t, ok := c.target(pendingDeletion)
	if !ok || c.fact(t.shared("kind")) == "external" { // the state depends on what it had
		return nil
	}
	in := &kms.CancelKeyDeletionInput{}
	return on(c, t, "CancelKeyDeletion", in, &in.KeyId, change{t.fact("state"): disabled}, (*kms.Client).CancelKeyDeletion)
}

func (c *caller) putPolicy() *attempt {
	t, ok := c.target(enabled, disabled, pendingImport)
	if !ok {
		return nil
	}
	sid := "v" + strconv.Itoa(c.random.IntN(1e9))
	in := &kms.PutKeyPolicyInput{Policy: policy(sid)}
	return on(c, t, "PutKeyPolicy", in, &in.KeyId, change{t.fact("policy"): sid}, (*kms.Client).PutKeyPolicy)
}
