package main

import (
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
)

// token is an open token with a key for each operation.
type token struct {
	ctx    *p11.Ctx
	module *cryptoki.Module
	slot   uint
	// login is a session that is kept, and with it the login.
	login p11.SessionHandle

	aes, wrapping, mac, p256, ed25519, rsa cryptoki.Object
}

func open(module, label, pin string) (*token, error) {
	t := &token{ctx: p11.New(module)}
	if t.ctx == nil {
		return nil, fmt.Errorf("loading %s failed", module)
	}
	if err := t.ctx.Initialize(); err != nil {
		return nil, fmt.Errorf("C_Initialize: %w", err)
	}
	var err error
	if t.module, err = cryptoki.Open(module, t.ctx); err != nil {
		return nil, err
	}
	if t.slot, err = slotOf(t.ctx, label); err != nil {
		return nil, err
	}
	if t.login, err = t.ctx.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION); err != nil {
		return nil, fmt.Errorf("C_OpenSession: %w", err)
	}
	if err := t.ctx.Login(t.login, p11.CKU_USER, pin); err != nil {
		return nil, fmt.Errorf("C_Login: %w", err)
	}
	return t, t.makeKeys()
}

func slotOf(ctx *p11.Ctx, label string) (uint, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("C_GetSlotList: %w", err)
	}
	for _, s := range slots {
		if info, err := ctx.GetTokenInfo(s); err == nil && info.Label == label {
			return s, nil
		}
	}
	return 0, fmt.Errorf("no token has the label %s", label)
}

// makeKeys makes the keys, with the attributes that the daemon's have.
func (t *token) makeKeys() error {
	for _, k := range []struct {
		key       *cryptoki.Object
		mechanism uint
		length    uint
		usages    []uint
	}{
		{&t.aes, p11.CKM_AES_KEY_GEN, 32, []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT}},
		{&t.wrapping, p11.CKM_AES_KEY_GEN, 32, []uint{p11.CKA_WRAP, p11.CKA_UNWRAP}},
		{&t.mac, p11.CKM_GENERIC_SECRET_KEY_GEN, 32, []uint{p11.CKA_SIGN, p11.CKA_VERIFY}},
	} {
		tmpl := append(private(k.usages...), p11.NewAttribute(p11.CKA_VALUE_LEN, k.length), p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
		h, err := t.ctx.GenerateKey(t.login, []*p11.Mechanism{p11.NewMechanism(k.mechanism, nil)}, tmpl)
		if err != nil {
			return fmt.Errorf("C_GenerateKey: %w", err)
		}
		*k.key = cryptoki.Object(h)
	}
	for _, k := range []struct {
		key       *cryptoki.Object
		mechanism uint
		public    *p11.Attribute
	}{
		{&t.p256, p11.CKM_EC_KEY_PAIR_GEN, curve(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})},
		{&t.ed25519, edwardsKeyPairGen, curve("edwards25519")},
		{&t.rsa, p11.CKM_RSA_PKCS_KEY_PAIR_GEN, p11.NewAttribute(p11.CKA_MODULUS_BITS, 2048)},
	} {
		public := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_VERIFY, true), k.public}
		_, h, err := t.ctx.GenerateKeyPair(t.login, []*p11.Mechanism{p11.NewMechanism(k.mechanism, nil)}, public, private(p11.CKA_SIGN))
		if err != nil {
			return fmt.Errorf("C_GenerateKeyPair: %w", err)
		}
		*k.key = cryptoki.Object(h)
	}
	return nil
}

// Mechanisms of PKCS#11 3.0, which the binding does not know, and RFC 5649 as
// SoftHSM2 numbers it.
const (
	edwardsKeyPairGen = 0x1055 // CKM_EC_EDWARDS_KEY_PAIR_GEN
	eddsa             = 0x1057 // CKM_EDDSA
	aesKeyWrapPad     = 0x210A
)

func private(usages ...uint) []*p11.Attribute {
	tmpl := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
	}
	for _, u := range usages {
		tmpl = append(tmpl, p11.NewAttribute(u, true))
	}
	return tmpl
}

// curve is CKA_EC_PARAMS: an object identifier, or the name of a curve as a
// PrintableString (PKCS#11 3.0 Current Mechanisms, section 2.3.3).
func curve(name any) *p11.Attribute {
	der, err := asn1.Marshal(name)
	if err != nil {
		panic(err) // the names are constants
	}
	return p11.NewAttribute(p11.CKA_EC_PARAMS, der)
}

// caller makes the calls of one thread on a session of its own.
type caller struct {
	token     *token
	session   cryptoki.Session
	operation func() error
	input     []byte
	out       []byte
	count     uint64
}

func (t *token) caller(name string) (*caller, error) {
	h, err := t.ctx.OpenSession(t.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		return nil, fmt.Errorf("C_OpenSession: %w", err)
	}
	c := &caller{token: t, session: cryptoki.Session(h), out: make([]byte, 8192), input: make([]byte, 32)}
	sign := func(key cryptoki.Object, mechanism uint) func() error {
		return func() error { return c.sign(key, mechanism) }
	}
	switch name {
	case "gcm-32":
		c.operation = c.encrypt
	case "gcm-4096":
		c.input = make([]byte, 4096)
		c.operation = c.encrypt
	case "data-key":
		c.operation = c.dataKey
	case "hmac":
		c.operation = sign(t.mac, p11.CKM_SHA256_HMAC)
	case "p256":
		c.operation = sign(t.p256, p11.CKM_ECDSA)
	case "ed25519":
		c.operation = sign(t.ed25519, eddsa)
	case "rsa-2048":
		c.operation = sign(t.rsa, p11.CKM_SHA256_RSA_PKCS)
	default:
		return nil, errors.New("no such operation")
	}
	return c, nil
}

// close closes the session; the process ends soon if that fails.
func (c *caller) close() { _ = c.token.ctx.CloseSession(p11.SessionHandle(c.session)) }

// encrypt is AES-256-GCM without AAD; a counter serves for the IV.
func (c *caller) encrypt() error {
	var iv [12]byte
	c.count++
	binary.BigEndian.PutUint64(iv[4:], c.count)
	return check("C_Encrypt", c.token.module.EncryptGCM(c.session, c.token.aes, iv[:], nil, c.input, c.out).RV)
}

func (c *caller) sign(key cryptoki.Object, mechanism uint) error {
	return check("C_Sign", c.token.module.Sign(c.session, key, cryptoki.Mechanism{Type: mechanism}, c.input, c.out).RV)
}

// dataKey makes a data key in the token, wraps it and encrypts what it is
// wrapped to: the calls of GenerateDataKeyWithoutPlaintext.
func (c *caller) dataKey() error {
	m := c.token.module
	var tmpl cryptoki.Template
	tmpl = tmpl.Bool(p11.CKA_TOKEN, false).Bool(p11.CKA_PRIVATE, true).Bool(p11.CKA_SENSITIVE, true).Bool(p11.CKA_EXTRACTABLE, true).
		ULong(p11.CKA_VALUE_LEN, 32)
	key, rv := m.GenerateKey(c.session, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN}, tmpl)
	if err := check("C_GenerateKey", rv); err != nil {
		return err
	}
	wrapped := m.WrapKey(c.session, cryptoki.Mechanism{Type: aesKeyWrapPad}, c.token.wrapping, key, c.out)
	if err := check("C_WrapKey", wrapped.RV); err != nil {
		return err
	}
	if err := check("C_DestroyObject", m.DestroyObject(c.session, key)); err != nil {
		return err
	}
	return c.encrypt()
}

func check(call string, rv uint) error {
	if rv != p11.CKR_OK {
		return fmt.Errorf("%s: CKR 0x%X", call, rv)
	}
	return nil
}
