package probe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// A token may let whoever is logged in change CKA_EXTRACTABLE and CKA_SENSITIVE of a key with
// CKA_MODIFIABLE false, and keep the key in for another reason: a TPM has no command that
// gives it away. Such a token is served if nothing comes out of a key that was changed so, by
// any of the ways that PKCS#11 has: reading, copying and wrapping. For tokens that make
// session objects changing remains a reason to refuse them.

// stays tries to get a private key out, before and after its attributes are changed. It is
// an error if any of the key comes out.
func (l *lastingProber) stays(u *token.Purpose, public, private cryptoki.Object) error {
	what := privateNames[u.Pair.Form]
	var wrapping []cryptoki.Object
	var err error
	if lost := l.toFail(func() { wrapping, err = l.wrappingKeys(public) }, func() uint { return l.there(private) }); err != nil || lost != nil {
		return cmp.Or(err, lost)
	}
	return l.mustFail(func() error { return l.tryChanged(u, private, wrapping, what) }, func() uint { return l.there(private) })
}

func (l *lastingProber) tryChanged(u *token.Purpose, private cryptoki.Object, wrapping []cryptoki.Object, what string) error {
	if err := l.tryAll(u, private, wrapping, what+" that must not be extracted"); err != nil {
		return err
	}
	var changed []string
	for _, c := range changes {
		if l.s.SetAttributes(l.s.Handle, private, c.template) != p11.CKR_OK {
			continue
		}
		if l.Omitted[token.AttributeOf{KeyType: u.KeyType, Attribute: p11.CKA_MODIFIABLE}] {
			return leaky("changes " + what + " that must not be extracted to " + c.to)
		}
		changed = append(changed, c.to)
		if err := l.tryAll(u, private, wrapping, what+" that it has changed to "+c.to); err != nil {
			return err
		}
	}
	fact := "no"
	if len(changed) > 0 {
		fact = "to " + strings.Join(changed, ", ") + ": nothing comes out all the same"
	}
	l.fact("changes-private-keys", fact)
	return nil
}

// changes are those of attributes by which a key could get out.
var changes = []struct {
	to       string
	template cryptoki.Template
}{
	{"EXTRACTABLE", cryptoki.Template(nil).Bool(p11.CKA_EXTRACTABLE, true)},
	{"not SENSITIVE", cryptoki.Template(nil).Bool(p11.CKA_SENSITIVE, false)},
	{"EXTRACTABLE and not SENSITIVE", cryptoki.Template(nil).Bool(p11.CKA_EXTRACTABLE, true).Bool(p11.CKA_SENSITIVE, false)},
}

// tryAll tries to read, copy and wrap a key.
func (l *lastingProber) tryAll(u *token.Purpose, key cryptoki.Object, wrapping []cryptoki.Object, what string) error {
	if err := l.tryReads(key, what, token.SecretAttributes(*u)); err != nil {
		return err
	}
	for _, c := range changes {
		for _, lasts := range []bool{false, true} {
			t := slices.Clone(c.template).Bool(p11.CKA_TOKEN, lasts)
			if _, rv := l.keep(l.s.CopyObject(l.s.Handle, key, t)); rv == p11.CKR_OK {
				return leaky("copies " + what + " to one that is " + c.to)
			}
		}
	}
	listed, err := l.listedWraps()
	if err != nil {
		return err
	}
	all := slices.Concat(aesWraps(), rsaWraps(), listed)
	for _, w := range wrapping {
		if l.s.WrapGCM(l.s.Handle, w, key, make([]byte, token.IVLength), make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
			return leaky(fmt.Sprintf("wraps %s (mechanism 0x%X)", what, uint(p11.CKM_AES_GCM)))
		}
		for _, h := range token.OAEPHashes {
			if l.s.WrapRSAAES(l.s.Handle, h.CKM, h.MGF, w, key, make([]byte, token.LeakRoom)).RV == p11.CKR_OK {
				return leaky(fmt.Sprintf("wraps %s (mechanism 0x%X)", what, uint(p11.CKM_RSA_AES_KEY_WRAP)))
			}
		}
		for _, m := range all {
			if l.wrapsBy(m, w, key) {
				return leaky(fmt.Sprintf("wraps %s (mechanism 0x%X)", what, m.Type))
			}
		}
	}
	return nil
}

// tryReads tries to read a key.
func (l *lastingProber) tryReads(key cryptoki.Object, what string, values []uint) error {
	if l.given(key, values...) {
		return leaky("reads the value of " + what)
	}
	return nil
}

// wrappingKeys are the keys that may wrap, made for that in every way that the token takes,
// and all others in it. The public half of the pair is one, whether it may wrap or not.
func (l *lastingProber) wrappingKeys(public cryptoki.Object) ([]cryptoki.Object, error) {
	handles, err := l.token.Search(l.s, []*p11.Attribute{p11.NewAttribute(p11.CKA_WRAP, true)})
	if err != nil {
		return nil, err
	}
	l.s.SetAttributes(l.s.Handle, public, cryptoki.Template(nil).Bool(p11.CKA_WRAP, true)) // or not
	all := []cryptoki.Object{public}
	for _, h := range handles {
		all = append(all, cryptoki.Object(h))
	}
	for _, stays := range []bool{false, true} {
		lasts := func(t cryptoki.Template, id []byte) cryptoki.Template {
			if !stays {
				return t
			}
			return t.Without(p11.CKA_TOKEN).Bool(p11.CKA_TOKEN, true).Bytes(p11.CKA_ID, id).Bytes(p11.CKA_LABEL, l.Label(probeLabel))
		}
		secret := func(length uint) cryptoki.Template {
			return lasts(l.SessionKey(p11.CKK_AES, length, false, p11.CKA_WRAP, p11.CKA_UNWRAP), probeIDs[1])
		}
		o, rv := l.s.GenerateKey(l.s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN}, secret(32))
		if rv != p11.CKR_OK {
			o, rv = l.s.CreateObject(l.s.Handle, secret(0).Bytes(p11.CKA_VALUE, KnownKey[:32]))
		}
		if rv == p11.CKR_OK {
			if err := l.own(o, stays, p11.CKO_SECRET_KEY, probeIDs[1]); err != nil {
				return nil, err
			}
			all = append(all, o)
		}
		for _, t := range []cryptoki.Template{
			token.RecipientTemplate(&der.KnownRSA().PublicKey),
			token.RecipientTemplate(&der.KnownRSA().PublicKey).Without(p11.CKA_ENCRYPT).Without(p11.CKA_VERIFY),
		} {
			if o, rv := l.s.CreateObject(l.s.Handle, lasts(t, probeIDs[2])); rv == p11.CKR_OK {
				if err := l.own(o, stays, p11.CKO_PUBLIC_KEY, probeIDs[2]); err != nil {
					return nil, err
				}
				all = append(all, o)
				break
			}
		}
	}
	return all, nil
}

// own takes what was made for what is to be destroyed, if it is that.
func (l *lastingProber) own(o cryptoki.Object, lasts bool, class uint, id []byte) error {
	if lasts {
		if err := l.s.Is(o, class, id); err != nil {
			return err
		}
	}
	l.made = append(l.made, o)
	return nil
}
