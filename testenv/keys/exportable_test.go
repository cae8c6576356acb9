package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
	"cmkd/testenv/rig"
)

// everyKey lists one key for each spec and kind of usage that the token can
// do. Specs that SoftHSM2 cannot do are in notInSoftHSM2.
var everyKey = []kms.CreateKeyInput{
	{},
	{MultiRegion: new(true)},
	{KeySpec: types.KeySpecHmac224, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	{KeySpec: types.KeySpecHmac384, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	{KeySpec: types.KeySpecHmac512, KeyUsage: types.KeyUsageTypeGenerateVerifyMac},
	{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt},
	{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecRsa3072, KeyUsage: types.KeyUsageTypeEncryptDecrypt},
	{KeySpec: types.KeySpecRsa4096, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement},
	{KeySpec: types.KeySpecEccNistP384, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecEccNistP384, KeyUsage: types.KeyUsageTypeKeyAgreement},
	{KeySpec: types.KeySpecEccNistP521, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecEccNistP521, KeyUsage: types.KeyUsageTypeKeyAgreement},
	{KeySpec: types.KeySpecEccSecgP256k1, KeyUsage: types.KeyUsageTypeSignVerify},
	{KeySpec: types.KeySpecEccNistEdwards25519, KeyUsage: types.KeyUsageTypeSignVerify},
}

var notInSoftHSM2 = []types.KeySpec{
	types.KeySpecMlDsa44, types.KeySpecMlDsa65, types.KeySpecMlDsa87, types.KeySpecSm2,
}

// TestNotExportable makes every kind of key and then, with the PIN and without
// the daemon, tries to get each object of the token out of it.
func TestNotExportable(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		r := rig.New(t, rig.Config{Token: tok})
		c := r.Client("")
		var specs []types.KeySpec
		for _, in := range everyKey {
			rig.NewKey(t, c, &in)
			specs = append(specs, in.KeySpec)
		}
		for _, spec := range types.KeySpec("").Values() {
			if !strings.HasPrefix(string(spec), "ML_KEM") && spec != types.KeySpecSymmetricDefault &&
				!slices.Contains(specs, spec) && !slices.Contains(notInSoftHSM2, spec) {
				t.Errorf("no key of spec %s was made", spec)
			}
		}
		imported := importKeys(t, c)

		w := newWalk(t, tok)
		keys := w.keys()
		// The versions, the daemon's own three, the pair of an import that
		// has not ended.
		if want := len(everyKey) + imported + 3 + 1; len(keys) != want {
			t.Errorf("%d secret and private keys in the token, want %d", len(keys), want)
		}
		for _, k := range keys {
			for _, leak := range w.leaks(k, keys) {
				t.Errorf("%s: %s", w.describe(k), leak)
			}
		}
		// Control: the walk finds keys that do come out.
		for name, planted := range w.plant() {
			found := strings.Join(w.leaks(planted.key, append(keys, planted.key)), "; ")
			for _, want := range planted.want {
				if !strings.Contains(found, want) {
					t.Errorf("control: of %s the walk found %q, not %s", name, found, want)
				}
			}
		}
	})
}

// importKeys imports keys of each family, begins one import more, and returns
// how many it imported.
func importKeys(t *testing.T, c *kms.Client) int {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	imports := []struct {
		in       kms.CreateKeyInput
		material []byte
	}{
		{kms.CreateKeyInput{}, secret},
		{kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}, secret},
		{kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}, pkcs8(t, ecKey)},
		{kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeSignVerify}, pkcs8(t, rsaKey)},
	}
	for _, i := range imports {
		i.in.Origin = types.OriginTypeExternal
		id := rig.NewKey(t, c, &i.in)
		rig.ImportMaterial(t, c, id, i.material)
	}
	pending := rig.NewKey(t, c, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	rig.ImportParameters(t, c, pending)
	return len(imports)
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// describe names a key for messages.
func (w *walk) describe(k p11.ObjectHandle) string {
	label, class := w.value(k, p11.CKA_LABEL), w.value(k, p11.CKA_CLASS)
	return fmt.Sprintf("object %d %q of class %x", k, label, class)
}
