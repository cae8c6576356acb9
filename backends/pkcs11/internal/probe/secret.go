package probe

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"fmt"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// KnownKey is the value of the keys made for known answers, as much of it as
// is needed. It protects nothing.
var KnownKey = []byte("known answers: the keys of these bytes protect nothing whatsoever")

// known makes a session key of length bytes whose value is probeKey's. Where a
// token does not import keys in the clear, it reads back one that it generated.
func (b *prober) known(keyType uint, length int, uses ...uint) (cryptoki.Object, []byte, uint) {
	value := KnownKey[:length]
	t := b.SessionKey(keyType, 0, false, uses...)
	if o, rv := b.keep(b.s.CreateObject(b.s.Handle, t.Bytes(p11.CKA_VALUE, value))); rv == p11.CKR_OK {
		return o, value, rv
	}
	t = b.SessionKey(keyType, uint(length), false, uses...)
	o, rv := b.generate(token.Generators[keyType], t)
	if rv != p11.CKR_OK {
		return 0, nil, rv
	}
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, length)
	rv = b.s.GetAttributes(b.s.Handle, o, &q)
	v, ok := q.Value(p11.CKA_VALUE)
	if rv == p11.CKR_OK && (!ok || len(v) != length) {
		rv = p11.CKR_ATTRIBUTE_SENSITIVE
	}
	return o, v, rv
}

// encryption compares AES-256-GCM with Go's.
func (b *prober) encryption() error {
	key, value, rv := b.known(p11.CKK_AES, 32, p11.CKA_ENCRYPT, p11.CKA_DECRYPT)
	if rv != p11.CKR_OK {
		b.fact("aes-gcm", "not probed: no key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	aad, text := []byte("aad"), []byte("a known plaintext of odd length")
	iv, out := make([]byte, token.IVLength), make([]byte, len(text)+token.TagLength)
	r := b.s.EncryptGCM(b.s.Handle, key, iv, aad, text, out)
	if r.RV != p11.CKR_OK {
		b.fact("aes-gcm", "no: "+token.RVName(r.RV))
		return token.Fatal("C_Encrypt", r.RV)
	}
	b.GCMIV = !bytes.Equal(iv, make([]byte, token.IVLength))
	block, err := aes.NewCipher(value)
	if err != nil {
		return err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	if !bytes.Equal(out[:r.N], gcm.Seal(nil, iv, text, aad)) {
		b.fact("aes-gcm", "no: wrong answer")
		return nil
	}
	back := make([]byte, len(out))
	if r := b.s.DecryptGCM(b.s.Handle, key, iv, aad, out, back); r.RV != p11.CKR_OK || !bytes.Equal(back[:r.N], text) {
		b.fact("aes-gcm", "no: does not decrypt: "+token.RVName(r.RV))
		return nil
	}
	altered := bytes.Clone(out)
	altered[len(altered)-1] ^= 1
	if err := b.toFail(func() { r = b.s.DecryptGCM(b.s.Handle, key, iv, aad, altered, back) }, func() uint {
		return b.s.DecryptGCM(b.s.Handle, key, iv, aad, out, back).RV
	}); err != nil {
		return err
	}
	if r.RV == p11.CKR_OK {
		b.fact("aes-gcm", "no: accepts a wrong tag")
		return nil
	}
	b.GCM = true
	b.fact("aes-gcm", "yes")
	b.fact("aes-gcm-wrong-tag", token.RVName(r.RV))
	b.fact("aes-gcm-iv-by-token", token.Yes(b.GCMIV))
	return nil
}

// keyWrapping finds RFC 5649.
func (b *prober) keyWrapping() error {
	kek, value, rv := b.known(p11.CKK_AES, 32, p11.CKA_WRAP, p11.CKA_UNWRAP)
	if rv != p11.CKR_OK {
		b.fact("aes-key-wrap-pad", "not probed: no key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	kwp, err := subtle.NewKWP(value)
	if err != nil {
		return err
	}
	data, dataValue, rv := b.known(p11.CKK_GENERIC_SECRET, 32)
	if rv != p11.CKR_OK {
		b.fact("aes-key-wrap-pad", "not probed: no data key of known value: "+token.RVName(rv))
		return nil
	}
	want, err := kwp.Wrap(dataValue)
	if err != nil {
		return err
	}
	for _, m := range token.KeyWraps {
		out := make([]byte, 128)
		r := b.s.WrapKey(b.s.Handle, cryptoki.Mechanism{Type: m}, kek, data, out)
		if r.RV == p11.CKR_OK && bytes.Equal(out[:r.N], want) {
			b.KeyWrap = m
			break
		}
	}
	if b.KeyWrap == 0 {
		b.fact("aes-key-wrap-pad", "no")
		return nil
	}
	b.fact("aes-key-wrap-pad", fmt.Sprintf("0x%X", b.KeyWrap))
	if err := b.allowed(data); err != nil {
		return err
	}
	return b.exactness(kek, kwp)
}

// allowed looks whether a key that is allowed keyWrap alone does it: tokens
// with a number of their own for a mechanism may know it by another in
// CKA_ALLOWED_MECHANISMS.
func (b *prober) allowed(data cryptoki.Object) error {
	u, err := b.SecretPurpose(backends.AES256, backends.WrapDataKeys)
	if err != nil {
		return err
	}
	w, rv := b.generate(p11.CKM_AES_KEY_GEN, b.CMK(u, false, nil, nil))
	if rv == p11.CKR_OK {
		rv = b.s.WrapKey(b.s.Handle, cryptoki.Mechanism{Type: b.KeyWrap}, w, data, make([]byte, 128)).RV
	}
	if rv != p11.CKR_OK {
		b.Omitted[token.AttributeOf{KeyType: p11.CKK_AES, Attribute: p11.CKA_ALLOWED_MECHANISMS}] = true
	}
	b.fact("allowed-mechanisms", token.Yes(rv == p11.CKR_OK))
	return token.Fatal("C_WrapKey", rv)
}

// exactness looks what becomes of a key whose length is not a multiple of 8.
func (b *prober) exactness(kek cryptoki.Object, kwp *subtle.KWP) error {
	const length = 33
	value := bytes.Repeat([]byte{1}, length)
	want, err := kwp.Wrap(value)
	if err != nil {
		return err
	}
	m := cryptoki.Mechanism{Type: b.KeyWrap}
	o, rv := b.unwrap(m, kek, want, value)
	if rv != p11.CKR_OK {
		b.fact("aes-key-wrap-pad", "no: does not unwrap: "+token.RVName(rv))
		b.KeyWrap = 0
		return token.Fatal("C_UnwrapKey", rv)
	}
	b.KeyWrapExact = b.valueLength(o) == length
	o, rv = b.keep(b.s.CreateObject(b.s.Handle, b.SessionKey(p11.CKK_GENERIC_SECRET, 0, false).Bytes(p11.CKA_VALUE, value)))
	if rv == p11.CKR_OK {
		out := make([]byte, 128)
		r := b.s.WrapKey(b.s.Handle, m, kek, o, out)
		b.KeyWrapExact = b.KeyWrapExact && bytes.Equal(out[:r.N], want)
	}
	b.fact("aes-key-wrap-pad-exact", token.Yes(b.KeyWrapExact))
	aes, err := kwp.Wrap(KnownKey[:token.KEKLength])
	if err != nil {
		return err
	}
	o, rv = b.keep(b.s.UnwrapKey(b.s.Handle, m, kek, aes, b.Unwrapped(b.lastingKey(p11.CKK_AES))))
	b.KeyWrapSafe = rv == p11.CKR_OK && b.staysIn(o)
	b.fact("unwrapped-keys-stay-in-the-token", token.Yes(b.KeyWrapSafe))
	return token.Fatal("C_UnwrapKey", rv)
}

func (b *prober) valueLength(o cryptoki.Object) uint {
	var q cryptoki.Query
	q.AskULong(p11.CKA_VALUE_LEN)
	b.s.GetAttributes(b.s.Handle, o, &q)
	n, _ := q.ULong(p11.CKA_VALUE_LEN)
	return n
}

// reading looks whether a data key can be generated to be read.
func (b *prober) reading() error {
	o, rv := b.generate(p11.CKM_GENERIC_SECRET_KEY_GEN, b.SessionKey(p11.CKK_GENERIC_SECRET, 33, false))
	if rv == p11.CKR_OK {
		var q cryptoki.Query
		q.Ask(p11.CKA_VALUE, 33)
		rv = b.s.GetAttributes(b.s.Handle, o, &q)
		v, _ := q.Value(p11.CKA_VALUE)
		b.Readable = len(v) == 33
	}
	b.fact("readable-session-keys", token.Yes(b.Readable))
	return token.Fatal("C_GenerateKey", rv)
}

// macs compares the HMACs with Go's.
func (b *prober) macs() error {
	// As long as the longest hash: tokens may refuse shorter keys.
	key, value, rv := b.known(p11.CKK_GENERIC_SECRET, 64, p11.CKA_SIGN, p11.CKA_VERIFY)
	if rv != p11.CKR_OK {
		b.fact("hmac", "not probed: no key of known value: "+token.RVName(rv))
		return token.Fatal("C_CreateObject", rv)
	}
	message := []byte("a known message")
	for spec, h := range token.HMACs {
		mac := hmac.New(h.Hash.New, value)
		mac.Write(message)
		out := make([]byte, h.Hash.Size())
		r := b.s.Sign(b.s.Handle, key, cryptoki.Mechanism{Type: h.Mechanism}, message, out)
		if err := token.Fatal("C_Sign", r.RV); err != nil {
			return err
		}
		b.HMAC[spec] = r.RV == p11.CKR_OK && hmac.Equal(out[:r.N], mac.Sum(nil))
		if !b.HMAC[spec] {
			b.fact(h.Name, "no: "+token.RVName(r.RV))
		}
	}
	return nil
}
