package probe

import (
	"crypto/aes"
	"crypto/des"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

const ckmAESKeyWrapPKCS7 = 0x210C

// wrappers are the secret keys that others are wrapped under, with the mechanisms that are
// tried whether the token lists them or not.
var wrappers = []struct {
	keyType, generator uint
	length             uint // in bytes; 0: that of the type
	mechanisms         []cryptoki.Mechanism
}{
	{p11.CKK_AES, p11.CKM_AES_KEY_GEN, 32, aesWraps()},
	{p11.CKK_DES3, p11.CKM_DES3_KEY_GEN, 0, []cryptoki.Mechanism{
		{Type: p11.CKM_DES3_ECB},
		{Type: p11.CKM_DES3_CBC, Parameter: make([]byte, des.BlockSize)},
		{Type: p11.CKM_DES3_CBC_PAD, Parameter: make([]byte, des.BlockSize)},
	}},
	{p11.CKK_DES2, p11.CKM_DES2_KEY_GEN, 0, nil},
	{p11.CKK_GENERIC_SECRET, p11.CKM_GENERIC_SECRET_KEY_GEN, 32, nil},
	{p11.CKK_CAMELLIA, p11.CKM_CAMELLIA_KEY_GEN, 32, nil},
	{p11.CKK_ARIA, p11.CKM_ARIA_KEY_GEN, 32, nil},
	{p11.CKK_SEED, p11.CKM_SEED_KEY_GEN, 0, nil},
}

// aesWraps are the mechanisms that are known to wrap under AES keys, but for CKM_AES_GCM.
func aesWraps() []cryptoki.Mechanism {
	all := []cryptoki.Mechanism{
		{Type: p11.CKM_AES_KEY_WRAP},
		{Type: ckmAESKeyWrapPKCS7},
		{Type: p11.CKM_AES_ECB},
		{Type: p11.CKM_AES_CTR, Parameter: append(cryptoki.AppendULong(nil, 8*aes.BlockSize), make([]byte, aes.BlockSize)...)}, // CK_AES_CTR_PARAMS
	}
	for _, m := range token.KeyWraps {
		all = append(all, cryptoki.Mechanism{Type: m})
	}
	for _, m := range []uint{
		p11.CKM_AES_CBC, p11.CKM_AES_CBC_PAD, p11.CKM_AES_CTS, p11.CKM_AES_OFB, p11.CKM_AES_CFB1, p11.CKM_AES_CFB8, p11.CKM_AES_CFB64, p11.CKM_AES_CFB128,
	} {
		all = append(all, cryptoki.Mechanism{Type: m, Parameter: make([]byte, aes.BlockSize)})
	}
	return all
}

// withIV are the lengths of the IVs, in bytes, of the standard mechanisms that wrap, where the parameter is one and
// no key type of wrappers has them; 0: they have no parameter. Those with a structure get none that is
// made up: a module may follow its pointers.
var withIV = map[uint]int{
	ckmAESXTS:       aes.BlockSize,
	p11.CKM_DES_ECB: 0, p11.CKM_DES_CBC: des.BlockSize, p11.CKM_DES_CBC_PAD: des.BlockSize,
	p11.CKM_IDEA_ECB: 0, p11.CKM_IDEA_CBC: 8, p11.CKM_IDEA_CBC_PAD: 8,
	p11.CKM_CAST128_ECB: 0, p11.CKM_CAST128_CBC: 8, p11.CKM_CAST128_CBC_PAD: 8,
	p11.CKM_BLOWFISH_CBC: 8, p11.CKM_BLOWFISH_CBC_PAD: 8, p11.CKM_TWOFISH_CBC: 16, p11.CKM_TWOFISH_CBC_PAD: 16,
	p11.CKM_CAMELLIA_ECB: 0, p11.CKM_CAMELLIA_CBC: 16, p11.CKM_CAMELLIA_CBC_PAD: 16,
	p11.CKM_ARIA_ECB: 0, p11.CKM_ARIA_CBC: 16, p11.CKM_ARIA_CBC_PAD: 16,
	p11.CKM_SEED_ECB: 0, p11.CKM_SEED_CBC: 16, p11.CKM_SEED_CBC_PAD: 16,
}

const ckmAESXTS = 0x1071 // of PKCS#11 3.0

// triedApart are the mechanisms with a structure that are tried with theirs, and those under RSA keys.
var triedApart = map[uint]bool{
	p11.CKM_RSA_PKCS: true, p11.CKM_RSA_X_509: true, p11.CKM_RSA_PKCS_OAEP: true, p11.CKM_RSA_AES_KEY_WRAP: true, p11.CKM_AES_GCM: true,
}

// maxListed is how many of the mechanisms that the token lists are tried: each costs a call for each kind of
// key and of wrapping key.
const maxListed = 64

// listedWraps are the mechanisms by which the token says it wraps, and which are not tried anyway:
// the vendor's own, without a parameter, and others of withIV. The fact says which were not tried.
func (b *prober) listedWraps() ([]cryptoki.Mechanism, error) {
	if b.listed != nil {
		return b.listed, nil
	}
	list, err := b.token.P11.GetMechanismList(b.token.Slot)
	if err != nil {
		return nil, backends.Errorf(backends.Lost, "C_GetMechanismList: %v", err)
	}
	tried := slices.Concat(wrappers[0].mechanisms, wrappers[1].mechanisms)
	all := []cryptoki.Mechanism{}
	for _, m := range list {
		if triedApart[m.Mechanism] || slices.ContainsFunc(tried, func(t cryptoki.Mechanism) bool { return t.Type == m.Mechanism }) {
			continue
		}
		info, err := b.token.P11.GetMechanismInfo(b.token.Slot, []*p11.Mechanism{m})
		if err == nil && info.Flags&p11.CKF_WRAP == 0 {
			continue // one of which the token says nothing may wrap
		}
		length, known := withIV[m.Mechanism]
		switch {
		case len(all) == maxListed:
			b.cannotWrap(fmt.Sprintf("more than %d mechanisms of the token's own", maxListed))
			b.listed = all
			return all, nil
		case known || m.Mechanism >= p11.CKM_VENDOR_DEFINED:
			wrap := cryptoki.Mechanism{Type: m.Mechanism}
			if length > 0 {
				wrap.Parameter = make([]byte, length)
			}
			all = append(all, wrap)
		case err == nil:
			b.cannotWrap(fmt.Sprintf("mechanism 0x%X", m.Mechanism))
		}
	}
	b.listed = all
	return all, nil
}

// tryWraps wraps the key under secret keys.
func (b *prober) tryWraps(key cryptoki.Object, what string) error {
	listed, err := b.listedWraps()
	if err != nil {
		return err
	}
	possible := false
	for _, w := range wrappers {
		wrapping, ok := b.wrappingSecret(w.keyType, w.generator, w.length)
		if !ok {
			continue
		}
		possible = possible || w.mechanisms != nil
		if w.keyType == p11.CKK_AES && b.s.WrapGCM(b.s.Handle, wrapping, key, make([]byte, token.IVLength), make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
			return wraps(what, p11.CKM_AES_GCM, "")
		}
		for _, m := range slices.Concat(w.mechanisms, listed) {
			if b.wrapsBy(m, wrapping, key) {
				return wraps(what, m.Type, "")
			}
		}
	}
	if !possible {
		b.cannotWrap("secret keys")
	}
	return nil
}

// wrappingSecret makes a secret key that wraps, once if the token makes one.
func (b *prober) wrappingSecret(keyType, generator, length uint) (cryptoki.Object, bool) {
	o, made := b.underSecret[keyType]
	if made {
		return o, true
	}
	if o = b.newWrappingSecret(keyType, generator, length); o == 0 {
		return 0, false
	}
	if b.underSecret == nil {
		b.underSecret = map[uint]cryptoki.Object{}
	}
	b.underSecret[keyType] = o
	return o, true
}

// newWrappingSecret makes a secret key that wraps; some tokens make none that unwraps, too. 0: it makes
// none.
func (b *prober) newWrappingSecret(keyType, generator, length uint) cryptoki.Object {
	for _, uses := range [][]uint{{p11.CKA_WRAP, p11.CKA_UNWRAP}, {p11.CKA_WRAP}} {
		if o, rv := b.generate(generator, b.SessionKey(keyType, length, true, uses...)); rv == p11.CKR_OK {
			return o
		}
		if length == 0 {
			continue
		}
		if o, rv := b.keep(b.s.CreateObject(b.s.Handle, b.SessionKey(keyType, 0, true, uses...).Bytes(p11.CKA_VALUE, KnownKey[:length]))); rv == p11.CKR_OK {
			return o
		}
	}
	return 0
}

// cannotWrap remembers that the token made no key of a sort that wraps, for the fact.
func (b *prober) cannotWrap(sort string) {
	if !slices.Contains(b.noWrapping, sort) {
		b.noWrapping = append(b.noWrapping, sort)
	}
}

// rsaWraps are the mechanisms that are known to wrap under RSA keys, but for CKM_RSA_AES_KEY_WRAP.
func rsaWraps() []cryptoki.Mechanism {
	all := []cryptoki.Mechanism{{Type: p11.CKM_RSA_PKCS}, {Type: p11.CKM_RSA_X_509}}
	for _, h := range token.OAEPHashes {
		all = append(all, h.Mechanism())
	}
	return all
}

// tryWrapsUnderRSA wraps the key under the public key of an RSA pair.
func (b *prober) tryWrapsUnderRSA(key cryptoki.Object, what string) error {
	const under = " under an RSA key"
	public := b.wrappingRSA()
	if public == 0 {
		b.cannotWrap("RSA keys")
		return nil
	}
	for _, h := range token.OAEPHashes {
		if b.s.WrapRSAAES(b.s.Handle, h.CKM, h.MGF, public, key, make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
			return wraps(what, p11.CKM_RSA_AES_KEY_WRAP, under)
		}
	}
	listed, err := b.listedWraps()
	if err != nil {
		return err
	}
	for _, m := range slices.Concat(rsaWraps(), listed) {
		if b.wrapsBy(m, public, key) {
			return wraps(what, m.Type, under)
		}
	}
	return nil
}

// wrappingRSA makes an RSA public key that wraps, once: of a pair that others have or, where
// the token takes none from outside, of a pair that it generates. 0: it makes none.
func (b *prober) wrappingRSA() cryptoki.Object {
	if b.underRSA != 0 {
		return b.underRSA
	}
	t := token.RecipientTemplate(&der.KnownRSA().PublicKey)
	for _, t := range []cryptoki.Template{t, t.Without(p11.CKA_ENCRYPT, p11.CKA_VERIFY)} {
		if o, rv := b.keep(b.s.CreateObject(b.s.Handle, t)); rv == p11.CKR_OK {
			b.underRSA = o
			return o
		}
	}
	public, _, rv := b.generatePair(&token.Purpose{
		Class: p11.CKO_PRIVATE_KEY, KeyType: p11.CKK_RSA, Uses: []uint{p11.CKA_UNWRAP}, Pair: der.Kinds[backends.RSA2048],
		Mechanisms: []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_AES_KEY_WRAP, p11.CKM_RSA_PKCS, p11.CKM_RSA_X_509},
	})
	if rv == p11.CKR_OK {
		b.underRSA = public
	}
	return b.underRSA
}

func (b *prober) wrapsBy(m cryptoki.Mechanism, wrapping, key cryptoki.Object) bool {
	return b.s.WrapKey(b.s.Handle, m, wrapping, key, make([]byte, token.LeakRoom)).RV == p11.CKR_OK
}

func wraps(what string, mechanism uint, under string) error {
	return leaky(fmt.Sprintf("wraps %s that must not be extracted%s (mechanism 0x%X)", what, under, mechanism))
}
