package probe

import (
	"cmp"
	"crypto/aes"
	"crypto/des"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// A token may keep one kind of key and give another away, or refuse to wrap it by every
// mechanism but one. So each kind of key that is to be served is tried, by every way out.

// leakTried are the secret keys that are tried, of HMAC keys the first that the token makes.
var leakTried = [][]token.Kind{
	{{Spec: backends.SymmetricDefault, Usage: backends.EncryptDecrypt}},
	{{Spec: backends.AES256, Usage: backends.WrapDataKeys}},
	{
		{Spec: backends.HMAC256, Usage: backends.GenerateVerifyMAC},
		{Spec: backends.HMAC512, Usage: backends.GenerateVerifyMAC},
		{Spec: backends.HMAC384, Usage: backends.GenerateVerifyMAC},
		{Spec: backends.HMAC224, Usage: backends.GenerateVerifyMAC},
	},
}

// negatives tries to get sensitive session keys, made as CMKs are made, out of the token. It
// is an error if any way succeeds. It serves no kind of which that could not be tried.
func (b *prober) negatives() error {
	var not []string
	passed := false
	for _, kinds := range leakTried {
		tried, refused, err := b.triesFirst(kinds)
		if err != nil {
			return err
		}
		passed = passed || tried
		for _, k := range kinds {
			if rv, ok := refused[k.Spec]; ok && !tried {
				b.Untried[k.Spec] = rv
				not = append(not, fmt.Sprintf("for %s, C_GenerateKey %s", k.Spec, token.RVName(rv)))
			}
		}
	}
	switch {
	case len(not) > 0:
		b.fact("negative-tests", "not possible: "+strings.Join(not, "; "))
	case passed && len(b.noWrapping) > 0:
		b.fact("negative-tests", "passed; not possible: wrapping under "+strings.Join(b.noWrapping, ", "))
	case passed:
		b.fact("negative-tests", "passed")
	default:
		b.fact("negative-tests", "no secret key is served")
	}
	return nil
}

// triesFirst tries the first of kinds that is served and that the token makes. refused has
// the answers for those that it did not make.
func (b *prober) triesFirst(kinds []token.Kind) (tried bool, refused map[backends.KeySpec]uint, err error) {
	refused = map[backends.KeySpec]uint{}
	for _, k := range kinds {
		u, err := b.SecretPurpose(k.Spec, k.Usage)
		if err != nil {
			continue // it is not served
		}
		key, rv := b.lasting(u)
		if rv == p11.CKR_OK {
			return true, refused, b.keeps(key, secretNames[u.KeyType], []uint{p11.CKA_VALUE})
		}
		if err := token.Fatal("C_GenerateKey", rv); err != nil {
			return false, refused, err
		}
		refused[k.Spec] = rv
	}
	return false, refused, nil
}

var secretNames = map[uint]string{p11.CKK_AES: "a key", p11.CKK_GENERIC_SECRET: "a generic secret"}

// lasting makes a session key as a CMK is made: generated or, where that is not possible,
// of known value.
func (b *prober) lasting(u token.Purpose) (cryptoki.Object, uint) {
	key, rv := b.generate(token.Generators[u.KeyType], b.CMK(u, false, nil, nil))
	if rv == p11.CKR_OK {
		return key, rv
	}
	length := u.Length
	u.Length = 0
	if o, rv := b.keep(b.s.CreateObject(b.s.Handle, b.CMK(u, false, nil, nil).Bytes(p11.CKA_VALUE, KnownKey[:length]))); rv == p11.CKR_OK {
		return o, rv
	}
	return 0, rv
}

// ckaSeed is CKA_SEED of PKCS#11 3.2, of which a post-quantum private key is made.
const ckaSeed = 0x637

// privateLeaks are the names of private keys, and their attributes that must not be read
// (PKCS#11 2.40 Base, section 4.9).
var privateLeaks = map[der.Form]struct {
	name   string
	values []uint
}{
	der.ECKey:      {"an elliptic curve private key", []uint{p11.CKA_VALUE}},
	der.EdwardsKey: {"an Edwards curve private key", []uint{p11.CKA_VALUE}},
	der.MLDSAKey:   {"an ML-DSA private key", []uint{p11.CKA_VALUE, ckaSeed}},
	der.MLKEMKey:   {"an ML-KEM private key", []uint{p11.CKA_VALUE, ckaSeed}},
	der.RSAKey: {"an RSA private key", []uint{
		p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2, p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
	}},
}

// leaks tries to get private keys, made as CMKs are made, out of the token: of each form the
// first that the token makes. It serves no form of which that could not be tried.
func (b *pairProber) leaks() error {
	tried := map[der.Form]bool{}
	untried := map[backends.KeySpec]uint{}
	for _, s := range der.AsymmetricSpecs {
		form := der.KindOf(s.Spec).Form
		for _, usage := range s.Usages {
			u, err := b.Purpose(b.Profile, token.Kind{Spec: s.Spec, Usage: usage})
			if err != nil || tried[form] {
				continue
			}
			var private cryptoki.Object
			var rv uint
			if form == der.RSAKey {
				private, _, rv = b.rsaKeyOf(u.Uses...)
			} else {
				_, private, rv = b.generatePair(u)
			}
			if rv != p11.CKR_OK {
				if err := token.Fatal("C_GenerateKeyPair", rv); err != nil {
					return err
				}
				untried[s.Spec] = rv
				continue
			}
			if err := b.keeps(private, privateLeaks[form].name, privateLeaks[form].values); err != nil {
				return err
			}
			tried[form] = true
		}
	}
	for spec, rv := range untried {
		if k := der.KindOf(spec); !tried[k.Form] {
			b.refused[spec] = &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}
		}
	}
	return nil
}

// keeps tries to read, copy, change, wrap and derive from a sensitive key. It is an error if
// any of it succeeds.
func (b *prober) keeps(key cryptoki.Object, what string, values []uint) (leak error) {
	lost := b.toFail(func() { leak = b.tryLeaks(key, what, values) }, func() uint { return b.there(key) })
	return cmp.Or(leak, lost)
}

func (b *prober) tryLeaks(key cryptoki.Object, what string, values []uint) error {
	for _, a := range values {
		if token.GaveOut(b.s, key, a) {
			return leaky("reads the value of " + what + " that is sensitive")
		}
	}
	extractable := cryptoki.Template(nil).Bool(p11.CKA_EXTRACTABLE, true)
	readable := cryptoki.Template(nil).Bool(p11.CKA_SENSITIVE, false)
	for _, c := range []struct {
		as string
		t  cryptoki.Template
	}{
		{"EXTRACTABLE", extractable},
		{"not SENSITIVE", readable},
		{"EXTRACTABLE and not SENSITIVE", extractable.Bool(p11.CKA_SENSITIVE, false)},
	} {
		if _, rv := b.keep(b.s.CopyObject(b.s.Handle, key, c.t)); rv == p11.CKR_OK {
			return leaky("copies " + what + " that must not be extracted to one that is " + c.as)
		}
		if b.s.SetAttributes(b.s.Handle, key, c.t) == p11.CKR_OK {
			return leaky("changes " + what + " that must not be extracted to " + c.as)
		}
	}
	if err := b.tryDerivations(key, what); err != nil {
		return err
	}
	if err := b.tryWraps(key, what); err != nil {
		return err
	}
	if err := b.tryWrapsUnderRSA(key, what); err != nil {
		return err
	}
	return b.tryUsages(key, what)
}

// tryDerivations derives keys that show the base key, which nothing is to be derived from.
func (b *prober) tryDerivations(key cryptoki.Object, what string) error {
	t := b.SessionKey(p11.CKK_GENERIC_SECRET, 16, false)
	shown := func(o cryptoki.Object, rv uint) bool {
		o, rv = b.keep(o, rv)
		return rv == p11.CKR_OK && token.GaveOut(b.s, o, p11.CKA_VALUE)
	}
	var by string
	switch bit0 := cryptoki.AppendULong(nil, 0); {
	case shown(b.s.Derive(b.s.Handle, cryptoki.Mechanism{Type: p11.CKM_EXTRACT_KEY_FROM_KEY, Parameter: bit0}, key, t)):
		by = "CKM_EXTRACT_KEY_FROM_KEY"
	case shown(b.s.DeriveString(b.s.Handle, p11.CKM_XOR_BASE_AND_DATA, key, make([]byte, 16), t)):
		by = "CKM_XOR_BASE_AND_DATA"
	case shown(b.s.DeriveString(b.s.Handle, p11.CKM_CONCATENATE_BASE_AND_DATA, key, make([]byte, 16), t)):
		by = "CKM_CONCATENATE_BASE_AND_DATA"
	default:
		return nil
	}
	return leaky("derives by " + by + " from " + what + " that must not be extracted")
}

const ckmAESKeyWrapPKCS7 = 0x210C

// wrapsUnder are the mechanisms that wrap under a key of a type.
func wrapsUnder(keyType uint) []cryptoki.Mechanism {
	if keyType == p11.CKK_DES3 {
		iv := make([]byte, des.BlockSize)
		return []cryptoki.Mechanism{
			{Type: p11.CKM_DES3_ECB}, {Type: p11.CKM_DES3_CBC, Parameter: iv}, {Type: p11.CKM_DES3_CBC_PAD, Parameter: iv},
		}
	}
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

// tryWraps wraps the key under secret keys.
func (b *prober) tryWraps(key cryptoki.Object, what string) error {
	possible := false
	for keyType, generator := range map[uint]uint{p11.CKK_AES: p11.CKM_AES_KEY_GEN, p11.CKK_DES3: p11.CKM_DES3_KEY_GEN} {
		length := uint(0)
		if keyType == p11.CKK_AES {
			length = 32
		}
		wrapping, ok := b.wrappingSecret(keyType, generator, length)
		if !ok {
			continue
		}
		possible = true
		all := wrapsUnder(keyType)
		if keyType == p11.CKK_AES {
			if b.s.WrapGCM(b.s.Handle, wrapping, key, make([]byte, token.IVLength), make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
				return wraps(what, p11.CKM_AES_GCM, "")
			}
			all = append(all, b.vendorsWraps()...)
		}
		for _, m := range all {
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

// wrappingSecret makes a secret key that wraps; some tokens make none that unwraps, too.
func (b *prober) wrappingSecret(keyType, generator, length uint) (cryptoki.Object, bool) {
	for _, uses := range [][]uint{{p11.CKA_WRAP, p11.CKA_UNWRAP}, {p11.CKA_WRAP}} {
		if o, rv := b.generate(generator, b.SessionKey(keyType, length, true, uses...)); rv == p11.CKR_OK {
			return o, true
		}
		if keyType != p11.CKK_AES {
			continue
		}
		if o, _, rv := b.known(keyType, int(length), uses...); rv == p11.CKR_OK {
			return o, true
		}
	}
	return 0, false
}

// cannotWrap remembers that the token made no key of a sort that wraps, for the fact.
func (b *prober) cannotWrap(sort string) {
	if !slices.Contains(b.noWrapping, sort) {
		b.noWrapping = append(b.noWrapping, sort)
	}
}

// vendorsWraps are the mechanisms of the vendor's own by which the token says it wraps.
func (b *prober) vendorsWraps() (all []cryptoki.Mechanism) {
	list, err := b.token.P11.GetMechanismList(b.token.Slot)
	if err != nil {
		return nil
	}
	for _, m := range list {
		if m.Mechanism < p11.CKM_VENDOR_DEFINED {
			continue
		}
		info, err := b.token.P11.GetMechanismInfo(b.token.Slot, []*p11.Mechanism{m})
		if err == nil && info.Flags&p11.CKF_WRAP != 0 {
			all = append(all, cryptoki.Mechanism{Type: m.Mechanism})
		}
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
	all := []cryptoki.Mechanism{{Type: p11.CKM_RSA_PKCS}, {Type: p11.CKM_RSA_X_509}}
	for _, h := range token.OAEPHashes {
		all = append(all, h.Mechanism())
		if b.s.WrapRSAAES(b.s.Handle, h.CKM, h.MGF, public, key, make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
			return wraps(what, p11.CKM_RSA_AES_KEY_WRAP, under)
		}
	}
	for _, m := range all {
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

func leaky(what string) error {
	return backends.Errorf(backends.KeyUnsafe, "the token %s: no key is safe in it", what)
}
