package pkcs11_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/backendstest"
	"cmkd/backends/pkcs11"
	"cmkd/testenv"
)

func config(tok *testenv.Token) pkcs11.Config {
	return pkcs11.Config{Module: tok.Module, TokenLabel: tok.Label, PINFile: tok.PINFile}
}

// open opens the token for as long as the test runs.
func open(t testing.TB, tok *testenv.Token) *pkcs11.Token {
	t.Helper()
	k, err := pkcs11.Open(context.Background(), config(tok))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("closing the token: %v", err)
		}
	})
	return k
}

// rig is the suite's hands on a SoftHSM2 token.
func rig(tok *testenv.Token, backend func(*pkcs11.Token) backends.Backend) backendstest.Rig {
	return backendstest.Rig{
		Open: func(t testing.TB) backends.Backend {
			t.Helper()
			k, err := pkcs11.Open(context.Background(), config(tok))
			if err != nil {
				t.Fatal(err)
			}
			return backend(k)
		},
		Plant: func(t testing.TB, key backends.Key, flaw backendstest.Flaw) {
			t.Helper()
			plant(t, tok, key, flaw)
		},
		Inject: func(t testing.TB, key backends.Key, value []byte) {
			t.Helper()
			a := attributes(key, backendstest.Good)
			a.set(p11.CKA_VALUE, value)
			a.drop(p11.CKA_VALUE_LEN)
			ctx, s := tok.Objects(t)
			if _, err := ctx.CreateObject(s, a); err != nil {
				t.Fatal(err)
			}
		},
	}
}

type template []*p11.Attribute

func (a *template) set(attribute uint, value any) {
	a.drop(attribute)
	*a = append(*a, p11.NewAttribute(attribute, value))
}

func (a *template) drop(attribute uint) {
	*a = slices.DeleteFunc(*a, func(x *p11.Attribute) bool { return x.Type == attribute })
}

// secrets says again, apart from the code under test, what keys are.
var secrets = map[backends.KeySpec]struct {
	keyType, length, mechanism uint
	generate                   uint
}{
	backends.SymmetricDefault: {p11.CKK_AES, 32, p11.CKM_AES_GCM, p11.CKM_AES_KEY_GEN},
	backends.AES256:           {p11.CKK_AES, 32, 0x210A, p11.CKM_AES_KEY_GEN}, // RFC 5649 in SoftHSM2
	backends.HMAC224:          {p11.CKK_GENERIC_SECRET, 28, p11.CKM_SHA224_HMAC, p11.CKM_GENERIC_SECRET_KEY_GEN},
	backends.HMAC256:          {p11.CKK_GENERIC_SECRET, 32, p11.CKM_SHA256_HMAC, p11.CKM_GENERIC_SECRET_KEY_GEN},
	backends.HMAC384:          {p11.CKK_GENERIC_SECRET, 48, p11.CKM_SHA384_HMAC, p11.CKM_GENERIC_SECRET_KEY_GEN},
	backends.HMAC512:          {p11.CKK_GENERIC_SECRET, 64, p11.CKM_SHA512_HMAC, p11.CKM_GENERIC_SECRET_KEY_GEN},
}

// usages are the attributes that are true of each usage.
var usages = map[backends.Usage][]uint{
	backends.EncryptDecrypt:    {p11.CKA_ENCRYPT, p11.CKA_DECRYPT},
	backends.WrapDataKeys:      {p11.CKA_WRAP, p11.CKA_UNWRAP},
	backends.GenerateVerifyMAC: {p11.CKA_SIGN, p11.CKA_VERIFY},
}

// attributes is the template of a key with a flaw.
func attributes(key backends.Key, flaw backendstest.Flaw) template {
	kind := secrets[key.Spec]
	a := template{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, kind.keyType),
		p11.NewAttribute(p11.CKA_VALUE_LEN, kind.length),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, flaw != backendstest.NotSensitive),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, flaw == backendstest.Extractable),
		p11.NewAttribute(p11.CKA_MODIFIABLE, flaw == backendstest.Modifiable),
		p11.NewAttribute(p11.CKA_COPYABLE, false),
		p11.NewAttribute(p11.CKA_ID, key.ID[:]),
		p11.NewAttribute(p11.CKA_LABEL, "cmkd:test-"+key.ID.String()+":1"),
	}
	for _, use := range []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_VERIFY, p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_DERIVE} {
		a.set(use, slices.Contains(usages[key.Usage], use) || flaw == backendstest.ExtraUsage && use == p11.CKA_DERIVE)
	}
	allowed := []uint{kind.mechanism}
	if flaw == backendstest.OtherMechanism {
		allowed = append(allowed, p11.CKM_AES_ECB)
	}
	var list []byte
	for _, m := range allowed {
		list = append(list, p11.NewAttribute(p11.CKA_ALLOWED_MECHANISMS, m).Value...)
	}
	a.set(p11.CKA_ALLOWED_MECHANISMS, list)
	if flaw == backendstest.OtherLength {
		a.set(p11.CKA_VALUE_LEN, uint(16))
	}
	if flaw == backendstest.NotGenerated {
		a.drop(p11.CKA_VALUE_LEN)
		a.set(p11.CKA_VALUE, make([]byte, kind.length))
	}
	return a
}

func plant(t testing.TB, tok *testenv.Token, key backends.Key, flaw backendstest.Flaw) {
	t.Helper()
	if _, ok := pairs[key.Spec]; ok {
		plantPair(t, tok, key, flaw)
		return
	}
	ctx, s := tok.Objects(t)
	a := attributes(key, flaw)
	var err error
	if flaw == backendstest.NotGenerated {
		_, err = ctx.CreateObject(s, a)
	} else {
		_, err = ctx.GenerateKey(s, []*p11.Mechanism{p11.NewMechanism(secrets[key.Spec].generate, nil)}, a)
	}
	if err != nil {
		t.Fatalf("planting a key that is %s: %v", flaw, err)
	}
}

// benchRecipient is a recipient that SoftHSM2 can wrap to.
func benchRecipient(t testing.TB) *backends.Recipient {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &backends.Recipient{PublicKey: backendstest.PublicDER(t, &key.PublicKey), Algorithm: "RSAES_OAEP_SHA_1"}
}
