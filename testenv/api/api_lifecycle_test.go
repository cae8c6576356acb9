package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// testDeletion: the waiting period, and what comes back.
func testDeletion(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	schedule := func(days int32) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := a.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: &days})
			if err == nil && (*out.PendingWindowInDays != days || out.KeyState != types.KeyStatePendingDeletion || out.DeletionDate == nil) {
				return fmt.Errorf("the answer is %+v", out)
			}
			return err
		}
	}
	cancel := func(ctx context.Context) error {
		return rig.ErrOf(a.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: id}))
	}
	encrypt := func(ctx context.Context) error {
		return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: id, Plaintext: aMessage}))
	}
	window := validation("PendingWindowInDays must be between 7 and 30")
	constraint := func(days int, bound string) want {
		return validation(fmt.Sprintf("1 validation error detected: Value '%d' at 'pendingWindowInDays' failed to satisfy constraint: Member must have value %s", days, bound))
	}
	runCalls(t, []call{
		{"0 days", schedule(0), constraint(0, "greater than or equal to 1")},
		{"6 days", schedule(6), window},
		{"31 days", schedule(31), window},
		{"366 days", schedule(366), constraint(366, "less than or equal to 365")},
		{"7 days", schedule(7), wantOK()},
		{"again", schedule(7), invalidState(keyARN(id), "pending deletion")},
		{"use", encrypt, invalidState(keyARN(id), "pending deletion")},
		{"cancel", cancel, wantOK()},
		{"use of what is disabled", encrypt, want{"DisabledException", keyARN(id) + " is disabled."}},
		{"cancel again", cancel, invalidState(keyARN(id), "not pending deletion")},
		{"enable", func(ctx context.Context) error { return rig.ErrOf(a.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id})) }, wantOK()},
		{"use again", encrypt, wantOK()},
		{"30 days", schedule(30), wantOK()},
	})
}

// testRotation: the answers about rotation, and the order in which what stands
// against it is told.
func testRotation(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	external := a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	ext := &stateKey{api: a, id: *external, arn: keyARN(external)}
	statusOf := func(id *string, enabled bool, days int32) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := a.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: id})
			if err == nil && (out.KeyRotationEnabled != enabled || aws.ToInt32(out.RotationPeriodInDays) != days || (out.NextRotationDate != nil) != enabled) {
				return fmt.Errorf("the status is %+v", out)
			}
			return err
		}
	}
	status := func(enabled bool, days int32) func(context.Context) error { return statusOf(id, enabled, days) }
	enable := func(id *string, days *int32) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: id, RotationPeriodInDays: days}))
		}
	}
	rotate := func(id *string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(a.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}))
		}
	}
	set := func(id *string, enabled bool) func(context.Context) error {
		return func(ctx context.Context) error {
			if enabled {
				return rig.ErrOf(a.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id}))
			}
			return rig.ErrOf(a.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id}))
		}
	}
	disabledSigning := a.fresh(t, &kms.CreateKeyInput{KeySpec: signingKind.spec, KeyUsage: signingKind.usage})
	noMessage := want{"UnsupportedOperationException", ""}
	runCalls(t, []call{
		{"off at first", status(false, 0), wantOK()},
		{"on", enable(id, nil), wantOK()},
		{"every year", status(true, 365), wantOK()},
		{"90 days", enable(id, aws.Int32(90)), wantOK()},
		{"every 90 days", status(true, 90), wantOK()},
		{"on demand", rotate(id), wantOK()},
		{"the period stays", status(true, 90), wantOK()},
		{"off", func(ctx context.Context) error {
			return rig.ErrOf(a.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: id}))
		}, wantOK()},
		{"off again", status(false, 0), wantOK()},
		{"off of a MAC key", func(ctx context.Context) error {
			return rig.ErrOf(a.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: a.authenticating(t)}))
		}, wantOK()},
		{"disable the key", set(id, false), wantOK()},
		{"of a disabled key", rotate(id), want{"DisabledException", keyARN(id) + " is disabled."}},
		{"status of a disabled key", status(false, 0), wantOK()},
		{"pending import", rotate(external), invalidState(keyARN(external), "pending import")},
		{"automatic of EXTERNAL", enable(external, nil), wrongOrigin(keyARN(external), "EXTERNAL")},
		{"status of EXTERNAL", statusOf(external, false, 0), wrongOrigin(keyARN(external), "EXTERNAL")},
		{"import", func(context.Context) error { withMaterial(t, ext); return nil }, wantOK()},
		{"nothing pending", rotate(external), want{"KMSInvalidStateException", "No available key material pending rotation for the key: " + keyARN(external) + "."}},
		{"automatic of EXTERNAL with material", enable(external, nil), wrongOrigin(keyARN(external), "EXTERNAL")},
		{"of a signing key", rotate(a.signing(t)), noMessage},
		{"of an HMAC key", rotate(a.authenticating(t)), noMessage},
		{"status of a signing key", statusOf(a.signing(t), false, 0), wantOK()},
		{"status of an HMAC key", statusOf(a.authenticating(t), false, 0), wantOK()},
		{"disable a signing key", set(disabledSigning, false), wantOK()},
		{"the state comes before the spec", rotate(disabledSigning), want{"DisabledException", keyARN(disabledSigning) + " is disabled."}},
	})
}

// testRotationLimit: 25 rotations on demand, then AWS's text; each is listed,
// and every ciphertext goes on being decrypted.
func testRotationLimit(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{})
	var blobs [][]byte
	seal := func() {
		t.Helper()
		out, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, out.CiphertextBlob)
	}
	seal()
	for range 25 {
		if _, err := a.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: id}); err != nil {
			t.Fatal(err)
		}
		seal()
	}
	_, err := a.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: id})
	want{"LimitExceededException", "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed for this key: " + keyARN(id)}.check(t, err)
	out, err := a.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: id})
	if err != nil || len(out.Rotations) != 25 {
		t.Fatalf("ListKeyRotations: %d, %v", len(out.Rotations), err)
	}
	all, err := a.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: id, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil || len(all.Rotations) != 26 {
		t.Fatalf("ListKeyRotations with all material: %d, %v", len(all.Rotations), err)
	}
	seen := map[string]bool{}
	for i, blob := range blobs {
		opened, err := a.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob})
		if err != nil || !bytes.Equal(opened.Plaintext, aMessage) {
			t.Fatalf("after %d rotations: %v", i, err)
		}
		seen[*opened.KeyMaterialId] = true
	}
	for _, r := range all.Rotations {
		if !seen[*r.KeyMaterialId] || (r.RotationDate == nil) != (r.RotationType == "") {
			t.Errorf("rotation %+v", r)
		}
	}
	if len(seen) != 26 {
		t.Errorf("the ciphertexts name %d materials, want 26", len(seen))
	}
}

// testMultiRegion: a replica is the same key in another Region.
func testMultiRegion(t *testing.T, a *api) {
	id := a.fresh(t, &kms.CreateKeyInput{MultiRegion: aws.Bool(true), Description: aws.String("primary")})
	single := a.symmetric(t)
	there := "arn:aws:kms:" + otherRegion + ":" + keyARN(id)[len("arn:aws:kms:us-east-1:"):]
	replicate := func(c *kms.Client, id *string, region string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(c.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: id, ReplicaRegion: &region}))
		}
	}
	move := func(c *kms.Client, id *string, region string) func(context.Context) error {
		return func(ctx context.Context) error {
			return rig.ErrOf(c.UpdatePrimaryRegion(ctx, &kms.UpdatePrimaryRegionInput{KeyId: id, PrimaryRegion: &region}))
		}
	}
	notPrimary := func(arn string) want {
		return want{"UnsupportedOperationException", arn + " is not a multi-region primary key."}
	}
	describes := func(c *kms.Client, kind types.MultiRegionKeyType, primary string) func(context.Context) error {
		return func(ctx context.Context) error {
			out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id})
			if err != nil {
				return err
			}
			m := out.KeyMetadata.MultiRegionConfiguration
			if !*out.KeyMetadata.MultiRegion || m == nil || m.MultiRegionKeyType != kind || *m.PrimaryKey.Arn != primary || len(m.ReplicaKeys) != 1 {
				return fmt.Errorf("the key is %+v", m)
			}
			return nil
		}
	}
	sealed, err := a.Encrypt(t.Context(), &kms.EncryptInput{KeyId: id, Plaintext: aMessage})
	if err != nil {
		t.Fatal(err)
	}
	runCalls(t, []call{
		{"not there yet", func(ctx context.Context) error {
			return rig.ErrOf(a.other.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: id}))
		}, notFound("Key '%s' does not exist", there)},
		{"replica of a key of one Region", replicate(a.Client, single, otherRegion), notPrimary(keyARN(single))},
		{"replica elsewhere", replicate(a.Client, id, "mars-north-1"), wantCode("ValidationException")},
		{"primary where there is no replica", move(a.Client, id, otherRegion), notFound("Key '%s' does not exist", there)},
		{"replica", replicate(a.Client, id, otherRegion), wantOK()},
		{"replica again", replicate(a.Client, id, otherRegion), wantCode("AlreadyExistsException")},
		{"replica at home", replicate(a.Client, id, "us-east-1"), wantCode("AlreadyExistsException")},
		{"replica of a replica", replicate(a.other, id, "us-east-1"), notPrimary(there)},
		{"the primary", describes(a.Client, types.MultiRegionKeyTypePrimary, keyARN(id)), wantOK()},
		{"the replica", describes(a.other, types.MultiRegionKeyTypeReplica, keyARN(id)), wantOK()},
		{"decrypted there", func(ctx context.Context) error {
			out, err := a.other.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
			if err == nil && (!bytes.Equal(out.Plaintext, aMessage) || *out.KeyId != there) {
				return fmt.Errorf("the answer names %s", *out.KeyId)
			}
			return err
		}, wantOK()},
		{"rotation of a replica", func(ctx context.Context) error {
			return rig.ErrOf(a.other.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}))
		}, notPrimary(there)},
		{"new primary of a key of one Region", move(a.Client, single, otherRegion), notPrimary(keyARN(single))},
		{"new primary from the replica", move(a.other, id, otherRegion), notPrimary(there)},
		{"new primary", move(a.Client, id, otherRegion), wantOK()},
		{"the replica is primary", describes(a.other, types.MultiRegionKeyTypePrimary, there), wantOK()},
		{"the primary is a replica", describes(a.Client, types.MultiRegionKeyTypeReplica, there), wantOK()},
		{"back from the old primary", move(a.Client, id, "us-east-1"), notPrimary(keyARN(id))},
		{"back", move(a.other, id, "us-east-1"), wantOK()},
	})
}

// testImports: AWS's errors about imported material; an HMAC key with known
// bytes shows that GenerateMac is HMAC (RFC 2104).
func testImports(t *testing.T, a *api) {
	own, external := a.symmetric(t), a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	k := &stateKey{api: a, id: *external, arn: keyARN(external)}
	withImport(t, k)
	other := &stateKey{api: a, id: *a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})}
	withImport(t, other)
	load := func(change func(in *kms.ImportKeyMaterialInput)) func(context.Context) error {
		return func(ctx context.Context) error {
			in := &kms.ImportKeyMaterialInput{KeyId: external, ImportToken: k.token, EncryptedKeyMaterial: k.proof, ExpirationModel: lifetime}
			change(in)
			return rig.ErrOf(a.ImportKeyMaterial(ctx, in))
		}
	}
	runCalls(t, []call{
		{"parameters for a key of the token", func(ctx context.Context) error {
			return rig.ErrOf(a.GetParametersForImport(ctx, &kms.GetParametersForImportInput{KeyId: own, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048}))
		}, wrongOrigin(keyARN(own), "AWS_KMS")},
		{"into a key of the token", load(func(in *kms.ImportKeyMaterialInput) { in.KeyId = own }), wrongOrigin(keyARN(own), "AWS_KMS")},
		{"deletion from a key of the token", func(ctx context.Context) error {
			return rig.ErrOf(a.DeleteImportedKeyMaterial(ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: own}))
		}, wrongOrigin(keyARN(own), "AWS_KMS")},
		{"no date", load(func(in *kms.ImportKeyMaterialInput) { in.ExpirationModel = "" }), validation("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")},
		{"no date for what expires", load(func(in *kms.ImportKeyMaterialInput) {
			in.ExpirationModel = types.ExpirationModelTypeKeyMaterialExpires
		}), validation("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")},
		{"no token", load(func(in *kms.ImportKeyMaterialInput) { in.ImportToken = []byte("none") }), wantCode("InvalidImportTokenException")},
		{"the token of another key", load(func(in *kms.ImportKeyMaterialInput) { in.ImportToken = other.token }), wantCode("InvalidImportTokenException")},
		{"material of another pair", load(func(in *kms.ImportKeyMaterialInput) { in.EncryptedKeyMaterial = other.proof }), wantCode("InvalidCiphertextException")},
		{"nonsense", load(func(in *kms.ImportKeyMaterialInput) { in.EncryptedKeyMaterial = []byte("nonsense") }), wantCode("InvalidCiphertextException")},
		{"the key still waits", func(ctx context.Context) error {
			return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: external, Plaintext: aMessage}))
		}, invalidState(keyARN(external), "pending import")},
		{"import", load(func(*kms.ImportKeyMaterialInput) {}), wantOK()},
		{"use", func(ctx context.Context) error {
			return rig.ErrOf(a.Encrypt(ctx, &kms.EncryptInput{KeyId: external, Plaintext: aMessage}))
		}, wantOK()},
		{"the token serves once", load(func(*kms.ImportKeyMaterialInput) {}), wantCode("InvalidImportTokenException")},
		{"GetPublicKey of a pair that waits", func(ctx context.Context) error {
			id := a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal, KeySpec: signingKind.spec, KeyUsage: signingKind.usage})
			err := rig.ErrOf(a.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: id}))
			if rig.Code(err) != "KMSInvalidStateException" {
				return fmt.Errorf("got %w", err)
			}
			return nil
		}, wantOK()},
	})
}

// testImportedMAC imports HMAC keys of known bytes and computes the MACs here.
func testImportedMAC(t *testing.T, a *api) {
	for spec, test := range map[types.KeySpec]struct {
		algorithm types.MacAlgorithmSpec
		bytes     int
		hash      func() hash.Hash
	}{
		"HMAC_224": {types.MacAlgorithmSpecHmacSha224, 28, sha256.New224},
		"HMAC_256": {types.MacAlgorithmSpecHmacSha256, 32, sha256.New},
		"HMAC_384": {types.MacAlgorithmSpecHmacSha384, 48, sha512.New384},
		"HMAC_512": {types.MacAlgorithmSpecHmacSha512, 64, sha512.New},
	} {
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			id := a.fresh(t, &kms.CreateKeyInput{Origin: types.OriginTypeExternal, KeySpec: spec, KeyUsage: usageMAC})
			load := func(material []byte) error {
				out, err := a.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: id, WrappingAlgorithm: oaepSHA1, WrappingKeySpec: spec2048})
				if err != nil {
					t.Fatal(err)
				}
				return rig.ErrOf(a.ImportKeyMaterial(t.Context(), &kms.ImportKeyMaterialInput{
					KeyId: id, ImportToken: out.ImportToken, EncryptedKeyMaterial: sealOAEP1(t, out.PublicKey, material), ExpirationModel: lifetime,
				}))
			}
			key := bytes.Repeat([]byte{0x0b}, test.bytes)
			if err := load(key[1:]); rig.Code(err) == "" || rig.Code(err) == "KMSInternalException" {
				t.Errorf("a key of %d bytes: %v", len(key)-1, err)
			}
			if err := load(key); err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, 64, 65, 128, 129, 4096} {
				message := bytes.Repeat([]byte{'m'}, n)
				made, err := a.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: id, MacAlgorithm: test.algorithm, Message: message})
				mac := hmac.New(test.hash, key)
				mac.Write(message)
				if err != nil || !hmac.Equal(made.Mac, mac.Sum(nil)) {
					t.Errorf("%d bytes: another MAC than Go's, %v", n, err)
				}
			}
		})
	}
}
