package pkcs11_test

import (
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

// TestNonExportable tries to get the keys out of the token from outside, with
// the PIN and by every call that could give a key away.
func TestNonExportable(t *testing.T) {
	t.Parallel()
	testenv.Isolated(t, func(t *testing.T, tok *testenv.Token) {
		k := open(t, tok)
		makeKeys(t, k)
		ctx, s := tok.Objects(t)
		keys := allObjects(t, ctx, s)
		if len(keys) != 6 {
			t.Fatalf("%d objects are in the token", len(keys))
		}
		own := ownKey(t, ctx, s)
		for _, key := range keys {
			for _, a := range []uint{p11.CKA_VALUE, p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1} {
				got, err := ctx.GetAttributeValue(s, key, []*p11.Attribute{p11.NewAttribute(a, nil)})
				if err == nil && len(got[0].Value) > 0 {
					t.Errorf("attribute 0x%X of object %d can be read", a, key)
				}
			}
			for name, a := range map[string]*p11.Attribute{
				"extractable":   p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
				"not sensitive": p11.NewAttribute(p11.CKA_SENSITIVE, false),
				"able to wrap":  p11.NewAttribute(p11.CKA_WRAP, true),
				"relabelled":    p11.NewAttribute(p11.CKA_LABEL, "another"),
			} {
				if err := ctx.SetAttributeValue(s, key, []*p11.Attribute{a}); err == nil {
					t.Errorf("object %d can be made %s", key, name)
				}
				if _, err := ctx.CopyObject(s, key, []*p11.Attribute{a, p11.NewAttribute(p11.CKA_TOKEN, false)}); err == nil {
					t.Errorf("object %d can be copied to one that is %s", key, name)
				}
			}
			for _, wrapping := range append(keys, own) {
				tryWraps(t, ctx, s, wrapping, key)
			}
		}
	})
}

func makeKeys(t *testing.T, k *pkcs11.Token) {
	t.Helper()
	symmetric, hmac := pkcs11.NewSymmetric(k), pkcs11.NewHMAC(k)
	for _, c := range []struct {
		b     backends.Backend
		spec  backends.KeySpec
		usage backends.Usage
	}{
		{symmetric, backends.SymmetricDefault, backends.EncryptDecrypt},
		{symmetric, backends.AES256, backends.WrapDataKeys},
		{hmac, backends.HMAC224, backends.GenerateVerifyMAC},
		{hmac, backends.HMAC256, backends.GenerateVerifyMAC},
		{hmac, backends.HMAC384, backends.GenerateVerifyMAC},
		{hmac, backends.HMAC512, backends.GenerateVerifyMAC},
	} {
		key := unknownKey()
		key.Spec, key.Usage = c.spec, c.usage
		if _, err := c.b.CreateKey(t.Context(), &backends.CreateKeyRequest{Key: key, Label: "cmkd:test:1"}); err != nil {
			t.Fatal(err)
		}
	}
}

func allObjects(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle) []p11.ObjectHandle {
	t.Helper()
	if err := ctx.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true)}); err != nil {
		t.Fatal(err)
	}
	objects, _, err := ctx.FindObjects(s, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	return objects
}

// ownKey is a key of the thief's: of known value, and able to wrap.
func ownKey(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle) p11.ObjectHandle {
	t.Helper()
	o, err := ctx.CreateObject(s, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_WRAP, true),
		p11.NewAttribute(p11.CKA_VALUE, make([]byte, 32)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func tryWraps(t *testing.T, ctx *p11.Ctx, s p11.SessionHandle, wrapping, key p11.ObjectHandle) {
	t.Helper()
	for _, m := range []*p11.Mechanism{
		p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil),
		p11.NewMechanism(0x210A, nil),
		p11.NewMechanism(0x210B, nil),
		p11.NewMechanism(p11.CKM_AES_ECB, nil),
		p11.NewMechanism(p11.CKM_AES_CBC, make([]byte, 16)),
		p11.NewMechanism(p11.CKM_AES_CBC_PAD, make([]byte, 16)),
	} {
		if out, err := ctx.WrapKey(s, []*p11.Mechanism{m}, wrapping, key); err == nil {
			t.Errorf("object %d wraps object %d with mechanism 0x%X: %d bytes", wrapping, key, m.Mechanism, len(out))
		}
	}
}
