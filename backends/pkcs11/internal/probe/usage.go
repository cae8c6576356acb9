package probe

import (
	"cmp"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// addable are the usages that would let a key do more than it is for.
var addable = []uint{p11.CKA_DERIVE, p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_DECRYPT, p11.CKA_SIGN}

// usagesAdded is the fact that says which of them somebody with the PIN can add to a key.
const usagesAdded = "usages-added-later"

// tryUsages adds usages to a key that is neither modifiable nor copyable. There are tokens that
// do so all the same, or know neither attribute. A key that does more is found out when it is
// opened (see readBack); one that lets its value be derived must not be in the token at all.
func (b *prober) tryUsages(key cryptoki.Object, what string, values []uint) error {
	if b.Found[usagesAdded] == "" {
		b.fact(usagesAdded, "no")
	}
	for _, a := range addable {
		var q cryptoki.Query
		q.AskBool(a)
		b.s.GetAttributes(b.s.Handle, key, &q)
		if has, _ := q.Bool(a); has {
			continue
		}
		t := cryptoki.Template(nil).Bool(a, true)
		var more []cryptoki.Object
		if o, rv := b.keep(b.s.CopyObject(b.s.Handle, key, t)); rv == p11.CKR_OK {
			more = append(more, o)
		}
		if b.s.SetAttributes(b.s.Handle, key, t) == p11.CKR_OK {
			more = append(more, key)
		}
		if len(more) > 0 {
			b.usageAdded(token.AttributeNames[a])
		}
		for _, o := range more {
			if err := b.tryAnother(o, what, values); err != nil {
				return err
			}
		}
	}
	for _, t := range []cryptoki.Template{nil, cryptoki.Template(nil).Bool(p11.CKA_TOKEN, false)} {
		if o, rv := b.keep(b.s.CopyObject(b.s.Handle, key, t)); rv == p11.CKR_OK {
			if err := b.tryAnother(o, what, values); err != nil {
				return err
			}
		}
	}
	return nil
}

// tryAnother tries to get a key out of a copy of it, or of itself once it was changed.
func (b *prober) tryAnother(o cryptoki.Object, what string, values []uint) error {
	if b.given(o, values...) || b.mayLeave(o) {
		return leaky("copies or changes " + what + " that is sensitive and must not be extracted to one that is not")
	}
	return cmp.Or(b.tryDerivations(o, what), b.tryWraps(o, what), b.tryWrapsUnderRSA(o, what))
}

// usageAdded notes a usage in the fact.
func (b *prober) usageAdded(name string) {
	var names []string
	if fact := b.Found[usagesAdded]; fact != "no" {
		names = strings.Split(fact, ", ")
	}
	if !slices.Contains(names, name) {
		names = append(names, name)
	}
	slices.Sort(names)
	b.fact(usagesAdded, strings.Join(names, ", "))
}
