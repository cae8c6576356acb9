package trust

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// recovered runs cmkctl recover and returns what it printed, of which every
// expression must be found.
func recovered(t *testing.T, r *rig.Rig, complete bool, want []string, flags ...string) string {
	t.Helper()
	out, ok := rig.Cmkctl(t, r, append([]string{"recover"}, flags...)...)
	if ok != complete {
		t.Errorf("cmkctl recover %v says that all is well: %t\n%s", flags, ok, out)
	}
	for _, expression := range want {
		if !regexp.MustCompile(`(?m)^` + expression + `$`).MatchString(out) {
			t.Errorf("cmkctl recover %v: no line %q in\n%s", flags, expression, out)
		}
	}
	return out
}

// TestDatabaseLost: the token alone brings every key back, with its ID, every
// material and all that was made with it.
func TestDatabaseLost(t *testing.T) {
	t.Parallel()
	second := testenv.NewTokenLabelled(t, "second")
	r := rig.New(t, rig.Config{PlaintextDataKeys: true, Tables: rig.FurtherToken("second", rig.Cluster, second, second.Module, nil)})
	c, ctx := r.Client(""), t.Context()

	stored := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeAwsCloudhsm, CustomKeyStoreId: aws.String(rig.NewKeyStore(t, c))})
	rotated, multi := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
	imported := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	rig.ImportMaterial(t, c, imported, bytes.Repeat([]byte{1}, 32))
	var blobs []rig.Sealed
	for range 3 {
		blobs = append(blobs, rig.Seal(t, c, rotated, "of a rotated key"))
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &rotated}); err != nil {
			t.Fatal(err)
		}
	}
	blobs = append(blobs, rig.Seal(t, c, stored, "of a custom key store"), rig.Seal(t, c, multi, "of a multi-Region key"), rig.Seal(t, c, imported, "of imported material"))
	dataKey, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &rotated, KeySpec: types.DataKeySpecAes256})
	if err != nil {
		t.Fatal(err)
	}
	others := map[string]*kms.CreateKeyInput{}
	publicKeys := map[string][]byte{}
	for _, in := range []*kms.CreateKeyInput{
		{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify},
		{KeySpec: types.KeySpecRsa3072, KeyUsage: types.KeyUsageTypeEncryptDecrypt},
		{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify},
		{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement},
		{KeySpec: types.KeySpecEccNistEdwards25519, KeyUsage: types.KeyUsageTypeSignVerify},
		{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
		{KeySpec: types.KeySpecHmac384, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	} {
		id := rig.NewKey(t, c, in)
		others[id] = in
		if in.KeyUsage != types.KeyUsageTypeGenerateVerifyMac {
			out, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
			if err != nil {
				t.Fatal(err)
			}
			publicKeys[id] = out.PublicKey
		}
	}
	recovered(t, r, true, []string{"the tokens and the database agree"})

	loseDatabase(t, r)
	c = r.Client("")
	want := []string{
		rotated + `\s+1,2,3,4\s+main\s+SYMMETRIC_DEFAULT\s+ENCRYPT_DECRYPT\s*`,
		`cmkd:system-wrapping:1\s.*keep it: it opens data keys`,
		stored + `\s+1\s+second\s+token second has no custom key store in us-east-1: make it first`,
	}
	for id, in := range others {
		want = append(want, id+`\s+1\s+main\s+`+string(in.KeySpec)+`\s+`+string(in.KeyUsage)+`\s*`)
	}
	recovered(t, r, false, want)
	if _, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &rotated}); rig.Code(err) != "NotFoundException" {
		t.Errorf("a key that was only looked at: %v", err)
	}
	inStore := rig.NewKeyStore(t, c)
	recovered(t, r, true, []string{rotated + `\s.*recovered, disabled`, stored + `\s.*recovered, disabled`}, "--adopt")
	recovered(t, r, true, nil)

	ids := append(slices.Collect(maps.Keys(others)), rotated, multi, imported, stored)
	for _, id := range ids {
		out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
		if err != nil || out.KeyMetadata.KeyState != types.KeyStateDisabled {
			t.Fatalf("DescribeKey of a recovered key: %+v, %v", out, err)
		}
		if in := others[id]; in != nil && (out.KeyMetadata.KeySpec != in.KeySpec || out.KeyMetadata.KeyUsage != in.KeyUsage) {
			t.Errorf("key %s of %s, %s came back as %s, %s", id, in.KeySpec, in.KeyUsage, out.KeyMetadata.KeySpec, out.KeyMetadata.KeyUsage)
		}
		if id == stored && (out.KeyMetadata.Origin != types.OriginTypeAwsCloudhsm || aws.ToString(out.KeyMetadata.CustomKeyStoreId) != inStore) {
			t.Errorf("the key of the custom key store came back as %+v", out.KeyMetadata)
		}
		if id == imported && out.KeyMetadata.Origin != types.OriginTypeExternal || id == multi && !aws.ToBool(out.KeyMetadata.MultiRegion) {
			t.Errorf("key %s came back as %+v", id, out.KeyMetadata)
		}
		if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &id}); err != nil {
			t.Fatal(err)
		}
	}
	for id, before := range publicKeys {
		if out, err := c.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id}); err != nil || !bytes.Equal(out.PublicKey, before) {
			t.Errorf("the public key of %s: %v", id, err)
		}
	}
	for _, b := range blobs {
		if material := b.Open(t, c); material != b.Material {
			t.Errorf("%s: opened with %s, sealed with %s", b.Plaintext, material, b.Material)
		}
	}
	if out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: dataKey.CiphertextBlob}); err != nil || !bytes.Equal(out.Plaintext, dataKey.Plaintext) {
		t.Errorf("a data key of before: %v", err)
	}
	rig.Seal(t, c, rotated, "after all")
	if !strings.Contains(r.AuditTrail(t), `"eventName":"RecoverKeys"`) {
		t.Error("no RecoverKeys in the audit trail")
	}
}

// loseDatabase takes the database away and begins another one.
func loseDatabase(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(rig.Database(r) + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no database: %v", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	r.Initialise(t)
	r.Start(t)
}

// TestOlderDatabase: what was made since a copy of the database was taken comes
// back after the copy was restored, and what the copy says was in the making
// is not destroyed.
func TestOlderDatabase(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c, ctx := r.Client(""), t.Context()
	id, gone, twice := rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{}), rig.NewKey(t, c, &kms.CreateKeyInput{})
	pending := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	doomed := rig.NewKey(t, c, &kms.CreateKeyInput{})
	if _, err := c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &doomed}); err != nil {
		t.Fatal(err)
	}
	blobs := []rig.Sealed{rig.Seal(t, c, id, "before the copy")}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	copyDatabase(t, filepath.Dir(rig.Database(r)), old)

	r.Start(t)
	c = r.Client("")
	rotate := func(key string) {
		t.Helper()
		if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
	}
	rotate(id)
	rotate(twice)
	rig.ImportMaterial(t, c, pending, bytes.Repeat([]byte{2}, 32))
	later := rig.NewKey(t, c, &kms.CreateKeyInput{})
	blobs = append(blobs, rig.Seal(t, c, id, "after it"), rig.Seal(t, c, pending, "imported after it"), rig.Seal(t, c, later, "of a later key"),
		rig.Seal(t, c, twice, "with the second material"))
	made := objectID(t, r, "cmkd:"+later+":1")
	r.Token.Run(t, "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label, "--login", "--pin", r.Token.PIN,
		"--delete-object", "--type", "secrkey", "--label", "cmkd:"+gone+":1")
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	copyDatabase(t, old, filepath.Dir(rig.Database(r)))
	// As if the copy had been taken in the middle of CreateKey.
	rig.Tamper(t, r, fmt.Sprintf(
		`INSERT INTO intents VALUES (x'%x', '{"CKAID":%q,"Action":"create","KeyID":%q,"Version":1,"Token":"main",`+
			`"Spec":"SYMMETRIC_DEFAULT","Usage":"ENCRYPT_DECRYPT","Created":"2026-01-01T00:00:00Z"}')`,
		made, base64.StdEncoding.EncodeToString(made), later))

	r.Start(t)
	if out, ok := rig.Cmkctl(t, r, "recover"); ok || !strings.Contains(out, "accept-state first") {
		t.Errorf("recover of a database that does not verify: %s", out)
	}
	rig.Accept(t, r)
	rig.RunJobs(t, r)
	if !rig.DeletionsHeld(t, r) {
		t.Error("a deletion that may have been cancelled since the copy was taken is not held")
	}
	c = r.Client("")
	rotate(twice) // before anybody has looked
	other := rig.Seal(t, c, twice, "with the other second material")
	blobs = append(blobs, other)
	// One daemon of two on a token adopts only what is its own.
	recovered(t, r, false, []string{later + `\s+1\s.*recovered, disabled`, id + `\s+2\s+main\s+\S+\s+\S+\s*`}, "--adopt", later)
	if out := recovered(t, r, false, nil, "--adopt", later); !strings.Contains(out, later+" was not recovered") {
		t.Errorf("adopting what is not there to adopt: %s", out)
	}
	recovered(t, r, false, []string{
		id + `\s+2\s.*recovered`, pending + `\s+1\s.*recovered`, twice + `\s+2\s.*recovered`, gone + `\s+1\s+main`,
	}, "--adopt")
	if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &later}); err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if material := b.Open(t, c); material != b.Material {
			t.Errorf("%s: opened with %s, sealed with %s", b.Plaintext, material, b.Material)
		}
	}
	if got := rig.Current(t, c, id); got != blobs[1].Material {
		t.Errorf("the current material is %s, want the newest, %s", got, blobs[1].Material)
	}
	if got := rig.Current(t, c, twice); got != other.Material {
		t.Errorf("the current material is %s, want the one that was, %s", got, other.Material)
	}

	r.Token.Run(t, "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label, "--login", "--pin", r.Token.PIN,
		"--keygen", "--key-type", "AES:32", "--id", hex.EncodeToString(objectID(t, r, "cmkd:"+doomed+":1")), "--label", "cmkd:"+gone+":1")
	loseDatabase(t, r)
	c = r.Client("")
	recovered(t, r, false, []string{
		twice + `\s+1,2,2\s.*recovered, disabled`, doomed + `\s+1\s+main\s+two objects have its CKA_ID`, gone + `\s+1\s+main\s+two objects have its CKA_ID`,
	}, "--adopt")
	for _, key := range []string{id, twice, pending, later} {
		if _, err := c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: &key}); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range blobs {
		if material := b.Open(t, c); material != b.Material {
			t.Errorf("%s: opened with %s after all was lost, sealed with %s", b.Plaintext, material, b.Material)
		}
	}
	rotate(twice)
}

// objectID is CKA_ID of the object with the label.
func objectID(t *testing.T, r *rig.Rig, label string) []byte {
	t.Helper()
	out := r.Token.Run(t, "pkcs11-tool", "--module", r.Token.Module, "--token-label", r.Token.Label,
		"--login", "--pin", r.Token.PIN, "--list-objects")
	m := regexp.MustCompile(regexp.QuoteMeta(label) + `\s+ID:\s+([0-9a-f]{32})\b`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no object %s in\n%s", label, out)
	}
	id, err := hex.DecodeString(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
