package probe

import (
	"fmt"
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
			return true, refused, b.keeps(key, secretNames[u.KeyType], token.SecretAttributes(u))
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

// privateNames are the names of private keys.
var privateNames = map[der.Form]string{
	der.ECKey: "an elliptic curve private key", der.EdwardsKey: "an Edwards curve private key", der.RSAKey: "an RSA private key",
	der.MLDSAKey: "an ML-DSA private key", der.MLKEMKey: "an ML-KEM private key",
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
			if err := b.keeps(private, privateNames[form], token.SecretAttributes(*u)); err != nil {
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
func (b *prober) keeps(key cryptoki.Object, what string, values []uint) error {
	return b.mustFail(func() error { return b.tryLeaks(key, what, values) }, func() uint { return b.there(key) })
}

// given reports whether one of the attributes can be read, alone or with the others. A call that failed is
// made again by mustFail.
func (b *prober) given(key cryptoki.Object, attributes ...uint) bool {
	given, _ := token.GivesOut(b.s, key, attributes)
	return given
}

func (b *prober) tryLeaks(key cryptoki.Object, what string, values []uint) error {
	if b.given(key, values...) {
		return leaky("reads the value of " + what + " that is sensitive")
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
	return b.tryUsages(key, what, values)
}

// derivation is a way to derive a key that shows the base key (PKCS#11 2.40 Current
// Mechanisms, section 2.43).
type derivation struct {
	mechanism string
	length    uint // of the derived key, in bytes
	derive    func(cryptoki.Template) (cryptoki.Object, uint)
}

// derivations are the ways to derive from key.
func (b *prober) derivations(key cryptoki.Object) []derivation {
	const part = 16
	derive := func(m uint, base cryptoki.Object, parameter uint) func(cryptoki.Template) (cryptoki.Object, uint) {
		return func(t cryptoki.Template) (cryptoki.Object, uint) {
			return b.s.Derive(b.s.Handle, cryptoki.Mechanism{Type: m, Parameter: cryptoki.AppendULong(nil, parameter)}, base, t)
		}
	}
	withData := func(m uint) func(cryptoki.Template) (cryptoki.Object, uint) {
		return func(t cryptoki.Template) (cryptoki.Object, uint) {
			return b.s.DeriveString(b.s.Handle, m, key, make([]byte, part), t)
		}
	}
	all := []derivation{
		{"CKM_EXTRACT_KEY_FROM_KEY", part, derive(p11.CKM_EXTRACT_KEY_FROM_KEY, key, 0)},
		{"CKM_XOR_BASE_AND_DATA", part, withData(p11.CKM_XOR_BASE_AND_DATA)},
		{"CKM_CONCATENATE_BASE_AND_DATA", part, withData(p11.CKM_CONCATENATE_BASE_AND_DATA)},
		{"CKM_CONCATENATE_DATA_AND_BASE", 2 * part, withData(p11.CKM_CONCATENATE_DATA_AND_BASE)},
	}
	if other, _, rv := b.known(p11.CKK_GENERIC_SECRET, part, p11.CKA_DERIVE); rv == p11.CKR_OK {
		const name = "CKM_CONCATENATE_BASE_AND_KEY"
		all = append(all,
			derivation{name, part, derive(p11.CKM_CONCATENATE_BASE_AND_KEY, key, uint(other))},
			derivation{name, 2 * part, derive(p11.CKM_CONCATENATE_BASE_AND_KEY, other, uint(key))})
	}
	return all
}

// tryDerivations derives keys that show the base key, which nothing is to be derived from.
func (b *prober) tryDerivations(key cryptoki.Object, what string) error {
	for _, d := range b.derivations(key) {
		o, rv := b.keep(d.derive(b.SessionKey(p11.CKK_GENERIC_SECRET, d.length, false)))
		if rv == p11.CKR_OK && b.given(o, p11.CKA_VALUE) {
			return leaky("derives by " + d.mechanism + " from " + what + " that must not be extracted")
		}
	}
	return nil
}

func leaky(what string) error {
	return backends.Errorf(backends.KeyUnsafe, "the token %s: no key is safe in it", what)
}
