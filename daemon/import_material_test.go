package daemon_test

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

// fresh is an import of new random material into the same key.
func (m *importing) fresh(t *testing.T) *importing {
	t.Helper()
	other := *m
	other.dir = t.TempDir()
	openssl(t, other.dir, "rand", "-out", "material.bin", "32")
	return &other
}

// load imports the material, which is new to the key or not, and returns its ID or
// the code of the error.
func (m *importing) load(t *testing.T, kind types.ImportType) string {
	t.Helper()
	in := m.parameters(t)
	in.ImportType = kind
	out, err := m.c.ImportKeyMaterial(t.Context(), in)
	if err != nil {
		return code(err)
	}
	return *out.KeyMaterialId
}

// take deletes material.
func (m *importing) take(t *testing.T, material string) {
	t.Helper()
	if _, err := m.c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &m.id, KeyMaterialId: &material}); err != nil {
		t.Fatalf("DeleteImportedKeyMaterial: %v", err)
	}
}

func (m *importing) rotate(t *testing.T) {
	t.Helper()
	if _, err := m.c.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &m.id}); err != nil {
		t.Fatalf("RotateKeyOnDemand: %v", err)
	}
}

// rotations are the entries of ListKeyRotations, with all materials.
func (m *importing) rotations(t *testing.T) []types.RotationsListEntry {
	t.Helper()
	out, err := m.c.ListKeyRotations(t.Context(), &kms.ListKeyRotationsInput{KeyId: &m.id, IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial})
	if err != nil {
		t.Fatalf("ListKeyRotations: %v", err)
	}
	return out.Rotations
}

// TestImportFindsItsMaterial: without KeyMaterialId, material comes back as what it
// was, the current one or an older one.
func TestImportFindsItsMaterial(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	first := symmetric(t, r.Client(""))
	second := first.fresh(t)
	one := first.load(t, "")
	old := seal(t, first.c, first.id, "old")
	two := second.load(t, types.ImportTypeNewKeyMaterial)
	first.rotate(t)
	now := seal(t, first.c, first.id, "now")
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	expect("the older material while it is there", first.load(t, ""), one)
	expect("the current material while it is there", second.load(t, ""), two)
	first.take(t, one)
	expect("the key without older material", state(t, first.c, first.id), "PendingImport")
	expect("the current material while the older one is away", second.load(t, ""), two)
	expect("the key without older material, still", state(t, first.c, first.id), "PendingImport")
	expect("the older material", first.load(t, types.ImportTypeExistingKeyMaterial), one)
	expect("the key with all", state(t, first.c, first.id), "Enabled")
	first.take(t, one)
	first.take(t, two)
	expect("the current material of two", second.load(t, ""), two)
	expect("the older material of two", first.load(t, ""), one)
	expect("the key with all again", state(t, first.c, first.id), "Enabled")
	old.open(t, first.c)
	now.open(t, first.c)
	expect("other material", first.fresh(t).load(t, ""), "IncorrectKeyMaterialException")
	expect("known material as new", first.load(t, types.ImportTypeNewKeyMaterial), "IncorrectKeyMaterialException")
	if got := objects(t, r, "cmkd:"+first.id); len(got) != 2 {
		t.Errorf("the token has %v", got)
	}
}

// TestImportDiscarded: material that never became current belongs to the key no
// more when it is deleted; imported again, it has the ID that it had.
func TestImportDiscarded(t *testing.T) {
	t.Parallel()
	r := rig.New(t, rig.Config{})
	m := symmetric(t, r.Client(""))
	m.run(t)
	one, two := m.fresh(t), m.fresh(t)
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %s, want %s", what, got, want)
		}
	}
	idOne := one.load(t, types.ImportTypeNewKeyMaterial)
	m.take(t, idOne)
	expect("the number of materials", fmt.Sprint(len(m.rotations(t))), "1")
	expect("the key", state(t, m.c, m.id), "Enabled")
	expect("discarded material as existing", one.load(t, types.ImportTypeExistingKeyMaterial), "IncorrectKeyMaterialException")
	_, err := m.c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: &m.id, KeyMaterialId: &idOne})
	wantCode("NotFoundException").check(t, err)
	idTwo := two.load(t, types.ImportTypeNewKeyMaterial) // in its place
	if idTwo == idOne || len(idTwo) != 64 {
		t.Errorf("other material is %s, the first was %s", idTwo, idOne)
	}
	m.take(t, idTwo)
	expect("the first material again", one.load(t, types.ImportTypeNewKeyMaterial), idOne)
	m.rotate(t)
	if got := seal(t, m.c, m.id, "x").material; got != idOne {
		t.Errorf("the current material is %s, want %s", got, idOne)
	}
	expect("the second material again", two.load(t, types.ImportTypeNewKeyMaterial), idTwo)
	if got := objects(t, r, "cmkd:"+m.id); len(got) != 3 {
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
		openssl(t, dir, "rand", "-out", "material.bin", "32")
		m := &importing{c: c, id: external(t, c, spec, usage), dir: dir, algorithm: types.AlgorithmSpecRsaesOaepSha256, wrapping: types.WrappingKeySpecRsa2048}
		in := m.parameters(t)
		for name, change := range map[string]func(in *kms.ImportKeyMaterialInput){
			"ImportType":             func(in *kms.ImportKeyMaterialInput) { in.ImportType = types.ImportTypeNewKeyMaterial },
			"KeyMaterialDescription": func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialDescription = aws.String("d") },
			"KeyMaterialId":          func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialId = aws.String(strings.Repeat("0", 64)) },
		} {
			refused := *in
			change(&refused)
			if _, err := c.ImportKeyMaterial(t.Context(), &refused); code(err) != "UnsupportedOperationException" || !strings.Contains(message(err), name) {
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
	aes := external(t, c, types.KeySpecSymmetricDefault, "")
	mac := external(t, c, types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac)
	ec := external(t, c, types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	for _, algorithm := range []types.AlgorithmSpec{types.AlgorithmSpecRsaesOaepSha256, types.AlgorithmSpecRsaAesKeyWrapSha256} {
		for _, bad := range []struct{ id, bytes string }{
			{aes, "31"}, {aes, "33"}, {aes, "16"}, {aes, "64"}, {mac, "31"}, {mac, "64"}, {ec, "32"}, {ec, "138"},
		} {
			dir := t.TempDir()
			openssl(t, dir, "rand", "-out", "material.bin", bad.bytes)
			m := &importing{c: c, id: bad.id, dir: dir, algorithm: algorithm, wrapping: types.WrappingKeySpecRsa2048}
			if got := m.load(t, ""); got != "IncorrectKeyMaterialException" {
				t.Errorf("%s: %s bytes: %s", algorithm, bad.bytes, got)
			}
			in := m.parameters(t)
			in.EncryptedKeyMaterial[17] ^= 1
			if _, err := c.ImportKeyMaterial(t.Context(), in); code(err) != "InvalidCiphertextException" {
				t.Errorf("%s: %s bytes, damaged: %v", algorithm, bad.bytes, err)
			}
		}
	}
}

// TestImportExpiresAtOnce: from the moment at which material expires, every answer
// is as if it had been deleted; the job that destroys it comes later.
func TestImportExpiresAtOnce(t *testing.T) {
	t.Parallel()
	cl := newClock()
	r := rig.New(t, rig.Config{Now: cl.Now})
	c, ctx := r.Client(""), t.Context()
	m := symmetric(t, c)
	old, waiting := m.fresh(t), m.fresh(t)
	until := func(m *importing, days int, kind types.ImportType) string {
		t.Helper()
		in := m.parameters(t)
		in.ImportType, in.ExpirationModel, in.ValidTo = kind, types.ExpirationModelTypeKeyMaterialExpires, aws.Time(cl.Now().Add(time.Duration(days)*day))
		out, err := c.ImportKeyMaterial(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return *out.KeyMaterialId
	}
	oldID := until(old, 1, "")
	secret := seal(t, c, m.id, "secret")
	currentID := until(m, 3, types.ImportTypeNewKeyMaterial)
	m.rotate(t)
	waitingID := until(waiting, 2, types.ImportTypeNewKeyMaterial)
	expect := func(when, keyState string, imported ...string) {
		t.Helper()
		if got := state(t, c, m.id); got != keyState {
			t.Errorf("%s the key is %s, want %s", when, got, keyState)
		}
		var list []string
		for _, e := range m.rotations(t) {
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
		_, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: secret.blob})
		if (err == nil) != (keyState == "Enabled") || err != nil && code(err) != "KMSInvalidStateException" {
			t.Errorf("%s Decrypt: %v", when, err)
		}
	}
	expect("at first", "Enabled", oldID, currentID, waitingID)
	cl.jump(day) // no job has run
	expect("when the older material has expired", "PendingImport", currentID, waitingID)
	if got := until(old, 9, ""); got != oldID {
		t.Errorf("the older material comes back as %s, want %s", got, oldID)
	}
	expect("when it is back", "Enabled", oldID, currentID, waitingID)
	cl.jump(day)
	expect("when the waiting material has expired", "Enabled", oldID, currentID)
	if len(m.rotations(t)) != 2 {
		t.Error("the waiting material is still the key's")
	}
	_, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: &m.id})
	wantCode("KMSInvalidStateException").check(t, err)
	if got := until(waiting, 9, types.ImportTypeNewKeyMaterial); got != waitingID {
		t.Errorf("the waiting material comes back as %s, want %s", got, waitingID)
	}
	if _, err := c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &m.id}); err != nil {
		t.Fatal(err)
	}
	cl.jump(day)
	expect("when the current material has expired", "PendingImport", oldID, waitingID)
	meta, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &m.id})
	if err != nil || meta.KeyMetadata.ValidTo != nil || meta.KeyMetadata.ExpirationModel != "" || meta.KeyMetadata.Enabled {
		t.Errorf("DescribeKey: %+v, %v", meta.KeyMetadata, err)
	}
	if got := until(m, 9, ""); got != currentID {
		t.Errorf("the current material comes back as %s, want %s", got, currentID)
	}
	expect("at last", "Enabled", oldID, currentID, waitingID)
}
