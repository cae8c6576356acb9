package pkcs11_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// TestPairsStay tries to get private keys, generated and imported ones, out of
// the token, and to use them for what they are not for.
func TestPairsStay(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		k := open(t, tok)
		b := asymmetric(t, k)
		for _, kind := range []backends.Key{
			{Spec: backends.RSA2048, Usage: backends.EncryptDecrypt},
			{Spec: backends.RSA2048, Usage: backends.SignVerify},
			{Spec: backends.RSA2048, Usage: backends.UnwrapImport},
			{Spec: backends.P256, Usage: backends.SignVerify},
			{Spec: backends.P384, Usage: backends.KeyAgreement},
			{Spec: backends.Secp256k1, Usage: backends.SignVerify},
			{Spec: backends.Ed25519, Usage: backends.SignVerify},
		} {
			newPair(t, b, kind.Spec, kind.Usage)
		}
		importSome(t, tok, k, b)
		ctx, s := tok.Objects(t)
		own := ownKey(t, ctx, s)
		seen := 0
		for _, o := range allObjects(t, ctx, s) {
			if is(t, ctx, s, o, p11.CKA_CLASS, p11.CKO_PUBLIC_KEY) {
				continue
			}
			seen++
			stays(t, ctx, s, o)
			tryWraps(t, ctx, s, own, o)
			uses(t, ctx, s, o)
		}
		if seen != 7+4 {
			t.Errorf("%d keys were tried", seen)
		}
	})
}

// importSome imports a key by each route: two in the token, two through the
// plugin.
func importSome(t *testing.T, tok *testenv.Token, k *pkcs11.Token, b *pkcs11.Asymmetric) {
	t.Helper()
	for _, algorithm := range []backends.Algorithm{"RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"} {
		s := newImportRig(tok, pkcs11.NewSymmetric(k))
		pair := s.pair(t, backends.RSA2048)
		secret := s.request(t, backends.SymmetricDefault, backends.EncryptDecrypt, pair, algorithm, wrap(t, pair.public, algorithm, randomOf(t, 32)))
		if _, err := s.b.ImportKey(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		p := newImportRig(tok, b)
		private := p.request(t, backends.P256, backends.SignVerify, pair, algorithm, wrap(t, pair.public, algorithm, pkcs8(t, pkcs8Args[backends.P256]...)))
		if _, err := p.b.ImportKey(t.Context(), private); err != nil {
			t.Fatal(err)
		}
		if _, err := s.b.DestroyKey(t.Context(), &backends.DestroyKeyRequest{Key: pair.key}); err != nil {
			t.Fatal(err)
		}
	}
}

func is(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, o p11.ObjectHandle, attribute, value uint) bool {
	t.Helper()
	got, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
	return err == nil && string(got[0].Value) == string(p11.NewAttribute(attribute, value).Value)
}

// stays fails if the key can be read, changed or copied.
func stays(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, o p11.ObjectHandle) {
	t.Helper()
	for _, a := range []uint{
		p11.CKA_VALUE, p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2,
		p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
	} {
		got, err := ctx.GetAttributeValue(s, o, []*p11.Attribute{p11.NewAttribute(a, nil)})
		if err == nil && len(got[0].Value) > 0 {
			t.Errorf("attribute 0x%X of object %d can be read", a, o)
		}
	}
	for name, a := range map[string]*p11.Attribute{
		"extractable": p11.NewAttribute(p11.CKA_EXTRACTABLE, true), "not sensitive": p11.NewAttribute(p11.CKA_SENSITIVE, false),
		"able to decrypt": p11.NewAttribute(p11.CKA_DECRYPT, true), "able to unwrap": p11.NewAttribute(p11.CKA_UNWRAP, true),
	} {
		if err := ctx.SetAttributeValue(s, o, []*p11.Attribute{a}); err == nil {
			t.Errorf("object %d can be made %s", o, name)
		}
		if _, err := ctx.CopyObject(s, o, []*p11.Attribute{a, p11.NewAttribute(p11.CKA_TOKEN, false)}); err == nil {
			t.Errorf("object %d can be copied to one that is %s", o, name)
		}
	}
}

// uses fails if a key serves more than one of signing, decrypting and
// deriving.
func uses(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, o p11.ObjectHandle) {
	t.Helper()
	did := 0
	again := func() p11.SessionHandle { return anotherSession(t, ctx, s) } // an operation is never ended
	for _, m := range []uint{p11.CKM_RSA_PKCS, p11.CKM_ECDSA, ckmEDDSA} {
		if ctx.SignInit(again(), []*p11.Mechanism{p11.NewMechanism(m, nil)}, o) == nil {
			did |= 1
		}
	}
	for _, m := range []uint{p11.CKM_RSA_X_509, p11.CKM_RSA_PKCS, p11.CKM_AES_ECB} {
		if ctx.DecryptInit(again(), []*p11.Mechanism{p11.NewMechanism(m, nil)}, o) == nil {
			did |= 2
		}
	}
	if did == 3 {
		t.Errorf("object %d signs and decrypts", o)
	}
}

// anotherSession opens a session beside s.
func anotherSession(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle) p11.SessionHandle {
	t.Helper()
	info, err := ctx.GetSessionInfo(s)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ctx.OpenSession(info.SlotID, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	return other
}
