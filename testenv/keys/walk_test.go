package keys

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"cmkd/testenv"
)

// walk tries to get keys out of a token, as the token's user.
type walk struct {
	t   *testing.T
	ctx *p11.Ctx
	s   p11.SessionHandle
	// own are wrapping keys of the walk's own making.
	own []p11.ObjectHandle
	// wraps are the mechanisms that may wrap.
	wraps []*p11.Mechanism
}

// newWalk opens the token in this process, which testenv.Isolated has made.
func newWalk(t *testing.T, tok *testenv.Token) *walk {
	t.Helper()
	w := &walk{t: t, ctx: p11.New(tok.Module)}
	if w.ctx == nil {
		t.Fatalf("loading %s", tok.Module)
	}
	w.must(w.ctx.Initialize())
	t.Cleanup(func() {
		_ = w.ctx.Finalize() // the process ends anyway
		w.ctx.Destroy()
	})
	slots, err := w.ctx.GetSlotList(true)
	w.must(err)
	slot := slices.IndexFunc(slots, func(s uint) bool {
		info, err := w.ctx.GetTokenInfo(s)
		return err == nil && info.SerialNumber == tok.Serial
	})
	w.s, err = w.ctx.OpenSession(slots[slot], p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	w.must(err)
	w.must(w.ctx.Login(w.s, p11.CKU_USER, tok.PIN))
	w.makeWrappers()
	w.findMechanisms(slots[slot])
	return w
}

func (w *walk) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func bit(a uint, v bool) *p11.Attribute { return p11.NewAttribute(a, v) }

// makeWrappers makes an AES key and an RSA pair that wrap.
func (w *walk) makeWrappers() {
	aes, err := w.ctx.GenerateKey(w.s, mechanism(p11.CKM_AES_KEY_GEN), []*p11.Attribute{
		bit(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_VALUE_LEN, 32),
		bit(p11.CKA_WRAP, true), bit(p11.CKA_UNWRAP, true), bit(p11.CKA_ENCRYPT, true), bit(p11.CKA_DECRYPT, true),
	})
	w.must(err)
	public, _, err := w.ctx.GenerateKeyPair(w.s, mechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN), []*p11.Attribute{
		bit(p11.CKA_TOKEN, false), bit(p11.CKA_WRAP, true), bit(p11.CKA_ENCRYPT, true),
		p11.NewAttribute(p11.CKA_MODULUS_BITS, 2048), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}, []*p11.Attribute{bit(p11.CKA_TOKEN, false), bit(p11.CKA_UNWRAP, true), bit(p11.CKA_DECRYPT, true)})
	w.must(err)
	w.own = []p11.ObjectHandle{aes, public}
}

func mechanism(m uint) []*p11.Mechanism { return []*p11.Mechanism{p11.NewMechanism(m, nil)} }

// findMechanisms takes what the token announces and what it does not.
func (w *walk) findMechanisms(slot uint) {
	iv := make([]byte, 16)
	w.wraps = []*p11.Mechanism{
		p11.NewMechanism(p11.CKM_AES_CBC, iv), p11.NewMechanism(p11.CKM_AES_CBC_PAD, iv),
		p11.NewMechanism(p11.CKM_AES_CTR, iv), p11.NewMechanism(p11.CKM_AES_GCM, p11.NewGCMParams(iv[:12], nil, 128)),
		p11.NewMechanism(p11.CKM_RSA_PKCS_OAEP, p11.NewOAEPParams(p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, p11.CKZ_DATA_SPECIFIED, nil)),
		// AES-KEY-WRAP and both numbers of RFC 5649.
		p11.NewMechanism(0x2109, nil), p11.NewMechanism(0x210A, nil), p11.NewMechanism(0x210B, nil),
		p11.NewMechanism(p11.CKM_AES_ECB, nil), p11.NewMechanism(p11.CKM_RSA_PKCS, nil), p11.NewMechanism(p11.CKM_RSA_X_509, nil),
	}
	announced, err := w.ctx.GetMechanismList(slot)
	w.must(err)
	for _, m := range announced {
		info, err := w.ctx.GetMechanismInfo(slot, []*p11.Mechanism{m})
		w.must(err)
		if info.Flags&p11.CKF_WRAP != 0 && !slices.ContainsFunc(w.wraps, func(o *p11.Mechanism) bool { return o.Mechanism == m.Mechanism }) {
			w.wraps = append(w.wraps, m)
		}
	}
}

// keys are the secret and private keys in the token.
func (w *walk) keys() []p11.ObjectHandle {
	var all []p11.ObjectHandle
	for _, class := range []uint{p11.CKO_SECRET_KEY, p11.CKO_PRIVATE_KEY} {
		w.must(w.ctx.FindObjectsInit(w.s, []*p11.Attribute{bit(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_CLASS, class)}))
		found, _, err := w.ctx.FindObjects(w.s, 1000)
		w.must(err)
		w.must(w.ctx.FindObjectsFinal(w.s))
		all = append(all, found...)
	}
	return all
}

// value reads an attribute, nil if it is not given out.
func (w *walk) value(k p11.ObjectHandle, a uint) []byte {
	got, err := w.ctx.GetAttributeValue(w.s, k, []*p11.Attribute{p11.NewAttribute(a, nil)})
	if err != nil || len(got) != 1 {
		return nil
	}
	return got[0].Value
}

// leaks lists the ways in which a key came out, or became one that would.
func (w *walk) leaks(k p11.ObjectHandle, keys []p11.ObjectHandle) []string {
	var out []string
	for _, a := range []uint{
		p11.CKA_VALUE, p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2,
		p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
	} {
		if v := w.value(k, a); len(v) > 0 {
			out = append(out, fmt.Sprintf("C_GetAttributeValue(%#x) gave %d bytes", a, len(v)))
		}
	}
	for _, by := range slices.Concat(w.own, keys) {
		for _, m := range w.wraps {
			if v, err := w.ctx.WrapKey(w.s, []*p11.Mechanism{m}, by, k); err == nil {
				out = append(out, fmt.Sprintf("C_WrapKey by %#x under object %d gave %d bytes", m.Mechanism, by, len(v)))
			}
		}
	}
	return append(append(out, w.copies(k)...), w.changes(k)...)
}

// copies tries C_CopyObject.
func (w *walk) copies(k p11.ObjectHandle) []string {
	var out []string
	for name, template := range map[string][]*p11.Attribute{
		"as it is":            {},
		"to the session":      {bit(p11.CKA_TOKEN, false)},
		"to extractable":      {bit(p11.CKA_TOKEN, false), bit(p11.CKA_EXTRACTABLE, true)},
		"to not sensitive":    {bit(p11.CKA_TOKEN, false), bit(p11.CKA_SENSITIVE, false)},
		"to public":           {bit(p11.CKA_TOKEN, false), bit(p11.CKA_PRIVATE, false)},
		"to modifiable":       {bit(p11.CKA_TOKEN, false), bit(p11.CKA_MODIFIABLE, true)},
		"to one that unwraps": {bit(p11.CKA_TOKEN, false), bit(p11.CKA_UNWRAP, true)},
	} {
		if made, err := w.ctx.CopyObject(w.s, k, template); err == nil {
			out = append(out, "C_CopyObject "+name)
			w.must(w.ctx.DestroyObject(w.s, made))
		}
	}
	return out
}

// changes tries C_SetAttributeValue: to loosen the key, and to turn each of
// its usage bits.
func (w *walk) changes(k p11.ObjectHandle) []string {
	attributes := []*p11.Attribute{
		bit(p11.CKA_EXTRACTABLE, true), bit(p11.CKA_SENSITIVE, false), bit(p11.CKA_MODIFIABLE, true),
		bit(p11.CKA_COPYABLE, true), bit(p11.CKA_PRIVATE, false), bit(p11.CKA_TRUSTED, true),
		p11.NewAttribute(p11.CKA_ALLOWED_MECHANISMS, []byte{}), p11.NewAttribute(p11.CKA_LABEL, "other"),
	}
	for _, usage := range []uint{
		p11.CKA_ENCRYPT, p11.CKA_DECRYPT, p11.CKA_SIGN, p11.CKA_VERIFY, p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_DERIVE, p11.CKA_SIGN_RECOVER,
	} {
		attributes = append(attributes, bit(usage, !bytes.Equal(w.value(k, usage), []byte{1})))
	}
	var out []string
	for _, a := range attributes {
		if err := w.ctx.SetAttributeValue(w.s, k, []*p11.Attribute{a}); err == nil {
			out = append(out, fmt.Sprintf("C_SetAttributeValue(%#x)", a.Type))
		}
	}
	return out
}

// planted is a key that comes out, and by which calls.
type planted struct {
	key  p11.ObjectHandle
	want []string
}

// plant makes keys that the walk must find.
func (w *walk) plant() map[string]planted {
	key := func(want []string, more ...*p11.Attribute) planted {
		k, err := w.ctx.GenerateKey(w.s, mechanism(p11.CKM_AES_KEY_GEN), append([]*p11.Attribute{
			bit(p11.CKA_TOKEN, true), bit(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_VALUE_LEN, 32),
		}, more...))
		w.must(err)
		return planted{k, want}
	}
	return map[string]planted{
		"a readable key": key([]string{"C_GetAttributeValue(0x11)"},
			bit(p11.CKA_SENSITIVE, false), bit(p11.CKA_EXTRACTABLE, true), bit(p11.CKA_MODIFIABLE, false), bit(p11.CKA_COPYABLE, false)),
		"an extractable key": key([]string{"C_WrapKey by 0x2109", "C_WrapKey by 0x210a"},
			bit(p11.CKA_SENSITIVE, true), bit(p11.CKA_EXTRACTABLE, true), bit(p11.CKA_MODIFIABLE, false), bit(p11.CKA_COPYABLE, false)),
		"a copyable key": key([]string{"C_CopyObject"},
			bit(p11.CKA_SENSITIVE, true), bit(p11.CKA_EXTRACTABLE, false), bit(p11.CKA_MODIFIABLE, true), bit(p11.CKA_COPYABLE, true)),
		"a modifiable key": key([]string{"C_SetAttributeValue"},
			bit(p11.CKA_SENSITIVE, true), bit(p11.CKA_EXTRACTABLE, false), bit(p11.CKA_MODIFIABLE, true), bit(p11.CKA_COPYABLE, false)),
	}
}
