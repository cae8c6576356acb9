package imports

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cmkd/testenv/rig"
)

// TestImportFindsItsMaterial: without KeyMaterialId, material comes back as what it
// was, the current one or an older one.
func TestImportFindsItsMaterial(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	first := rig.NewImport(t, r.Client(""))
	second := first.Fresh(t)
	one := first.Load(t, "")
	old := rig.Seal(t, first.Client, first.ID, "old")
	two := second.Load(t, types.ImportTypeNewKeyMaterial)
	first.Rotate(t)
	now := rig.Seal(t, first.Client, first.ID, "now")
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	expect("the older material while it is there", first.Load(t, ""), one)
	expect("the current material while it is there", second.Load(t, ""), two)
	first.Take(t, one)
	expect("the key without older material", rig.State(t, first.Client, first.ID), "PendingImport")
	expect("the current material while the older one is away", second.Load(t, ""), two)
	expect("the key without older material, still", rig.State(t, first.Client, first.ID), "PendingImport")
	expect("the older material", first.Load(t, types.ImportTypeExistingKeyMaterial), one)
	expect("the key with all", rig.State(t, first.Client, first.ID), "Enabled")
	first.Take(t, one)
	first.Take(t, two)
	expect("the current material of two", second.Load(t, ""), two)
	expect("the older material of two", first.Load(t, ""), one)
	expect("the key with all again", rig.State(t, first.Client, first.ID), "Enabled")
	old.Open(t, first.Client)
	now.Open(t, first.Client)
	expect("other material", first.Fresh(t).Load(t, ""), "IncorrectKeyMaterialException")
	expect("known material as new", first.Load(t, types.ImportTypeNewKeyMaterial), "IncorrectKeyMaterialException")
	if got := rig.Objects(t, r, "cmkd:"+first.ID); len(got) != 2 {
		t.Errorf("the token has %v", got)
	}
}

// TestImportDiscarded: material that never became current belongs to the key no
// more when it is deleted; imported again, it has the ID that it had.
func TestImportDiscarded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	m := rig.NewImport(t, r.Client(""))
	m.Run(t)
	one, two := m.Fresh(t), m.Fresh(t)
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	idOne := one.Load(t, types.ImportTypeNewKeyMaterial)
	m.Take(t, idOne)
	expect("the number of materials", fmt.Sprint(len(m.Rotations(t))), "1")
	expect("the key", rig.State(t, m.Client, m.ID), "Enabled")
	expect("discarded material as existing", one.Load(t, types.ImportTypeExistingKeyMaterial), "IncorrectKeyMaterialException")
	_, err := m.Client.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &m.ID, KeyMaterialId: &idOne})
	rig.Outcome(t, "deleting discarded material", err, "NotFoundException")
	idTwo := two.Load(t, types.ImportTypeNewKeyMaterial) // in its place
	if idTwo == idOne || len(idTwo) != 64 {
		t.Errorf("other material is %s, the first was %s", idTwo, idOne)
	}
	m.Take(t, idTwo)
	expect("the first material again", one.Load(t, types.ImportTypeNewKeyMaterial), idOne)
	m.Rotate(t)
	if got := rig.Seal(t, m.Client, m.ID, "x").Material; got != idOne {
		t.Errorf("the current material is %s, want %s", got, idOne)
	}
	expect("the second material again", two.Load(t, types.ImportTypeNewKeyMaterial), idTwo)
	if got := rig.Objects(t, r, "cmkd:"+m.ID); len(got) != 3 {
		t.Errorf("the token has %v", got)
	}
}

// TestImportMembers: what is for symmetric encryption keys only.
func TestImportMembers(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	for spec, usage := range map[types.KeySpec]types.KeyUsageType{
		types.KeySpecHmac256: types.KeyUsageTypeGenerateVerifyMac, types.KeySpecEccNistP256: types.KeyUsageTypeSignVerify,
	} {
		dir := t.TempDir()
		rig.OpenSSL(t, dir, "rand", "-out", "material.bin", "32")
		m := &rig.Importing{Client: c, ID: rig.ExternalKey(t, c, spec, usage), Dir: dir, Algorithm: types.AlgorithmSpecRsaesOaepSha256, Wrapping: types.WrappingKeySpecRsa2048}
		in := m.Parameters(t)
		for name, change := range map[string]func(in *kms.ImportKeyMaterialInput){
			"ImportType":             func(in *kms.ImportKeyMaterialInput) { in.ImportType = types.ImportTypeNewKeyMaterial },
			"KeyMaterialDescription": func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialDescription = aws.String("d") },
			"KeyMaterialId":          func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialId = aws.String(strings.Repeat("0", 64)) },
		} {
			refused := *in
			change(&refused)
			if _, err := c.ImportKeyMaterial(t.Context(), &refused); rig.Code(err) != "UnsupportedOperationException" || !strings.Contains(rig.Message(err), name) {
				t.Errorf("%s of %s: %v", name, spec, err)
			}
		}
	}
}

// TestImportUnfit: material that is well wrapped and not a key of the spec.
func TestImportUnfit(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	c := r.Client("")
	aes := rig.ExternalKey(t, c, types.KeySpecSymmetricDefault, "")
	mac := rig.ExternalKey(t, c, types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
	ec := rig.ExternalKey(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	for _, algorithm := range []types.AlgorithmSpec{types.AlgorithmSpecRsaesOaepSha256, types.AlgorithmSpecRsaAesKeyWrapSha256} {
		for _, bad := range []struct{ id, bytes string }{
			{aes, "31"}, {aes, "33"}, {aes, "16"}, {aes, "64"}, {mac, "31"}, {mac, "64"}, {ec, "32"}, {ec, "138"},
		} {
			dir := t.TempDir()
			rig.OpenSSL(t, dir, "rand", "-out", "material.bin", bad.bytes)
			m := &rig.Importing{Client: c, ID: bad.id, Dir: dir, Algorithm: algorithm, Wrapping: types.WrappingKeySpecRsa2048}
			if got := m.Load(t, ""); got != "IncorrectKeyMaterialException" {
				t.Errorf("%s: %s bytes: %s", algorithm, bad.bytes, got)
			}
			in := m.Parameters(t)
			in.EncryptedKeyMaterial[17] ^= 1
			if _, err := c.ImportKeyMaterial(t.Context(), in); rig.Code(err) != "InvalidCiphertextException" {
				t.Errorf("%s: %s bytes, damaged: %v", algorithm, bad.bytes, err)
			}
		}
	}
}

// TestImportExpiresAtOnce: from the moment at which material expires, every answer
// is as if it had been deleted; the job that destroys it comes later.
func TestImportExpiresAtOnce(t *testing.T) {
	t.Parallel()
	cl := rig.NewClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m := rig.NewImport(t, c)
	old, waiting := m.Fresh(t), m.Fresh(t)
	until := func(m *rig.Importing, days int, kind types.ImportType) string {
		t.Helper()
		in := m.Parameters(t)
		in.ImportType, in.ExpirationModel, in.ValidTo = kind, types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(time.Duration(days)*rig.Day))
		out, err := c.ImportKeyMaterial(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return *out.KeyMaterialId
	}
	oldID := until(old, 1, "")
	secret := rig.Seal(t, c, m.ID, "secret")
	currentID := until(m, 3, types.ImportTypeNewKeyMaterial)
	m.Rotate(t)
	waitingID := until(waiting, 2, types.ImportTypeNewKeyMaterial)
	expect := func(when, keyState string, imported ...string) {
		t.Helper()
		if got := rig.State(t, c, m.ID); got != keyState {
			t.Errorf("%s the key is %s, want %s", when, got, keyState)
		}
		var list []string
		for _, e := range m.Rotations(t) {
			there := e.ImportState == types.ImportStateImported
			if there != (e.ValidTo != nil) || there != (e.ExpirationModel != "") {
				t.Errorf("%s: %+v", when, e)
			}
			if there {
				list = append(list, *e.KeyMaterialId)
			}
		}
		if strings.Join(list, " ") != strings.Join(imported, " ") {
			t.Errorf("%s there are %v, want %v", when, list, imported)
		}
		_, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.Blob})
		if (err == nil) != (keyState == "Enabled") || err != nil && rig.Code(err) != "KMSInvalidStateException" {
			t.Errorf("%s Decrypt: %v", when, err)
		}
	}
	expect("at first", "Enabled", oldID, currentID, waitingID)
	cl.Jump(rig.Day) // no job has run
	expect("when the older material has expired", "PendingImport", currentID, waitingID)
	if got := until(old, 9, ""); got != oldID {
		t.Errorf("the older material comes back as %s, want %s", got, oldID)
	}
	expect("when it is back", "Enabled", oldID, currentID, waitingID)
	cl.Jump(rig.Day)
	expect("when the waiting material has expired", "Enabled", oldID, currentID)
	if len(m.Rotations(t)) != 2 {
		t.Error("the waiting material is still the key's")
	}
	_, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &m.ID})
	rig.Outcome(t, "rotating onto expired material", err, "KMSInvalidStateException")
	if got := until(waiting, 9, types.ImportTypeNewKeyMaterial); got != waitingID {
		t.Errorf("the waiting material comes back as %s, want %s", got, waitingID)
	}
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &m.ID}); err != nil {
		t.Fatal(err)
	}
	cl.Jump(rig.Day)
	expect("when the current material has expired", "PendingImport", oldID, waitingID)
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.ID})
	if err != nil || meta.KeyMetadata.ValidTo != nil || meta.KeyMetadata.ExpirationModel != "" || meta.KeyMetadata.Enabled {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	if got := until(m, 9, ""); got != currentID {
		t.Errorf("the current material comes back as %s, want %s", got, currentID)
	}
	expect("at last", "Enabled", oldID, currentID, waitingID)
}
