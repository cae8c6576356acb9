package token

import (
	"context"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// AttributeNames are for the texts of [backends.KeyUnsafe].
var AttributeNames = map[uint]string{
	p11.CKA_KEY_TYPE:           "CKA_KEY_TYPE",
	p11.CKA_VALUE_LEN:          "CKA_VALUE_LEN",
	p11.CKA_TOKEN:              "CKA_TOKEN",
	p11.CKA_PRIVATE:            "CKA_PRIVATE",
	p11.CKA_SENSITIVE:          "CKA_SENSITIVE",
	p11.CKA_EXTRACTABLE:        "CKA_EXTRACTABLE",
	p11.CKA_MODIFIABLE:         "CKA_MODIFIABLE",
	p11.CKA_COPYABLE:           "CKA_COPYABLE",
	p11.CKA_ALWAYS_SENSITIVE:   "CKA_ALWAYS_SENSITIVE",
	p11.CKA_NEVER_EXTRACTABLE:  "CKA_NEVER_EXTRACTABLE",
	p11.CKA_LOCAL:              "CKA_LOCAL",
	p11.CKA_ALLOWED_MECHANISMS: "CKA_ALLOWED_MECHANISMS",
	p11.CKA_ENCRYPT:            "CKA_ENCRYPT",
	p11.CKA_DECRYPT:            "CKA_DECRYPT",
	p11.CKA_SIGN:               "CKA_SIGN",
	p11.CKA_SIGN_RECOVER:       "CKA_SIGN_RECOVER",
	p11.CKA_VERIFY:             "CKA_VERIFY",
	p11.CKA_WRAP:               "CKA_WRAP",
	p11.CKA_UNWRAP:             "CKA_UNWRAP",
	p11.CKA_DERIVE:             "CKA_DERIVE",
	cryptoki.CKADecapsulate:    "CKA_DECAPSULATE",
}

// maxReads is how often a value is asked for that is neither given nor refused as it should be.
const maxReads = 3

// maxAllowed is how many CKA_ALLOWED_MECHANISMS are read back.
const maxAllowed = 16

// ReadBack checks the attributes of a secret or private key against its
// purpose: [backends.KeyUnsafe], naming what is wrong, if it could leave the
// token or do more than it is for.
func (p *Profile) ReadBack(s *Session, o cryptoki.Object, u Purpose, imported bool) error {
	must := map[uint]bool{
		p11.CKA_TOKEN:       true,
		p11.CKA_PRIVATE:     true,
		p11.CKA_SENSITIVE:   true,
		p11.CKA_EXTRACTABLE: false,
	}
	if !imported {
		must[p11.CKA_ALWAYS_SENSITIVE] = true
		must[p11.CKA_NEVER_EXTRACTABLE] = true
		must[p11.CKA_LOCAL] = true
	}
	// Absent means false for these, so absence is as good.
	mayLack := make(map[uint]bool)
	for _, a := range UsageOf(u.Class, u.KeyType) {
		if u.Class == p11.CKO_PRIVATE_KEY && p.Forced[AttributeOf{u.KeyType, a}] && !slices.Contains(u.Uses, a) {
			continue
		}
		must[a] = slices.Contains(u.Uses, a)
		mayLack[a] = !must[a]
	}
	for _, a := range []uint{p11.CKA_MODIFIABLE, p11.CKA_COPYABLE} {
		if !p.Omitted[AttributeOf{u.KeyType, a}] {
			must[a] = false
		}
	}

	var q cryptoki.Query
	for a := range must {
		q.AskBool(a)
	}
	q.AskULong(p11.CKA_KEY_TYPE, p11.CKA_VALUE_LEN)
	q.AskULongs(p11.CKA_ALLOWED_MECHANISMS, maxAllowed)
	if err := s.Attributes(o, &q); err != nil {
		return err
	}

	var wrong []string
	for a, want := range must {
		if got, ok := q.Bool(a); got != want || !ok && !mayLack[a] {
			wrong = append(wrong, AttributeNames[a])
		}
	}
	if got, ok := q.ULong(p11.CKA_KEY_TYPE); !ok || got != u.KeyType {
		wrong = append(wrong, AttributeNames[p11.CKA_KEY_TYPE])
	}
	// What an import unwrapped was measured then; some tokens forget it.
	forgotten := imported && !p.UnwrappedLength
	if got, ok := q.ULong(p11.CKA_VALUE_LEN); u.Length != 0 && (!ok || got != u.Length) && (!forgotten || got != 0) {
		wrong = append(wrong, AttributeNames[p11.CKA_VALUE_LEN])
	}
	if len(u.Mechanisms) > 0 && !p.Omitted[AttributeOf{u.KeyType, p11.CKA_ALLOWED_MECHANISMS}] {
		if got, _ := q.ULongs(p11.CKA_ALLOWED_MECHANISMS); !u.allows(got) {
			wrong = append(wrong, AttributeNames[p11.CKA_ALLOWED_MECHANISMS])
		}
	}
	if u.Pair != nil {
		if name, err := s.Mismatch(u.Pair, o); err != nil {
			return err
		} else if name != "" {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return &backends.Error{
			Code:    backends.KeyUnsafe,
			Message: fmt.Sprintf("attributes that are not as its template has them: %s", strings.Join(wrong, ", ")),
		}
	}
	for range maxReads {
		given, err := GivesOut(s, o, SecretAttributes(u))
		switch rv := RVOf(err); {
		case given:
			return backends.Errorf(backends.KeyUnsafe, "the token reads the value of a key that is sensitive")
		case err == nil:
			return nil
		case backends.CodeOf(err) != backends.Internal && rv != p11.CKR_GENERAL_ERROR:
			return err
		}
	}
	return nil // it refuses so
}

// ckaSeed is CKA_SEED of PKCS#11 3.2, of which a post-quantum private key is made.
const ckaSeed = 0x637

// SecretAttributes are those of a secret or private key that must not be read (PKCS#11 2.40 Base, section
// 4.9).
func SecretAttributes(u Purpose) []uint {
	switch {
	case u.KeyType == p11.CKK_RSA:
		return []uint{
			p11.CKA_PRIVATE_EXPONENT, p11.CKA_PRIME_1, p11.CKA_PRIME_2, p11.CKA_EXPONENT_1, p11.CKA_EXPONENT_2, p11.CKA_COEFFICIENT,
		}
	case u.Pair != nil && (u.Pair.Form == der.MLDSAKey || u.Pair.Form == der.MLKEMKey):
		return []uint{p11.CKA_VALUE, ckaSeed}
	}
	return []uint{p11.CKA_VALUE}
}

// allows reports whether the mechanisms that a key allows are those of its
// purpose; tolerated ones may be among them or in their place.
func (u *Purpose) allows(got []uint) bool {
	for _, m := range got {
		if !slices.Contains(u.Mechanisms, m) && !slices.Contains(u.tolerated, m) {
			return false
		}
	}
	if len(u.tolerated) > 0 {
		return len(got) > 0
	}
	for _, m := range u.Mechanisms {
		if !slices.Contains(got, m) {
			return false
		}
	}
	return true
}

// Attributes reads what the object has of q.
func (s *Session) Attributes(o cryptoki.Object, q *cryptoki.Query) error {
	switch rv := s.GetAttributes(s.Handle, o, q); rv {
	// Not being there or not being given is for the caller to judge; a
	// value too long for its room reads as absent.
	case p11.CKR_OK, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_BUFFER_TOO_SMALL:
		return nil
	default:
		return s.Check("C_GetAttributeValue", rv)
	}
}

// vet reads a key's attributes back.
func (t *Token) vet(ctx context.Context, key *backends.Key, u *Purpose, o *Object) error {
	err := t.WithSession(ctx, func(s *Session) error {
		return t.Profile.ReadBack(s, o.Handle, *u, key.Imported)
	})
	if err != nil {
		o.Safe.Store(nil)
		return err
	}
	o.Safe.Store(&Vetting{u, key.Imported})
	return nil
}

// LeakRoom is longer than any key, wrapped or not: what does not fit is not given.
const LeakRoom = 16 << 10

// GivesOut reports whether one of the attributes can be read, each alone, and all beside the class. If a call
// failed, and did not refuse, that is not known: its error is that of the call. What was written then was
// given out all the same.
func GivesOut(s *Session, key cryptoki.Object, attributes []uint) (bool, error) {
	for _, a := range attributes {
		if given, err := givesOut(s, key, a); given || err != nil {
			return given, err
		}
	}
	return givesOut(s, key, append([]uint{p11.CKA_CLASS}, attributes...)...)
}

// givesOut asks for the attributes in one call. CKA_CLASS is given always.
func givesOut(s *Session, key cryptoki.Object, attributes ...uint) (bool, error) {
	var q cryptoki.Query
	for _, a := range attributes {
		q.Ask(a, LeakRoom)
	}
	defer q.Reset()
	rv := s.GetAttributes(s.Handle, key, &q)
	asked := false
	for _, a := range attributes {
		v, ok := q.Value(a)
		if a == p11.CKA_CLASS || !ok || len(v) == 0 { // not as of one that is refused (PKCS#11 2.40 Base, C_GetAttributeValue)
			continue
		}
		if rv == p11.CKR_OK || slices.ContainsFunc(v, func(b byte) bool { return b != 0 }) {
			return true, nil
		}
		asked = true
	}
	if !asked || rv == p11.CKR_ATTRIBUTE_SENSITIVE || rv == p11.CKR_ATTRIBUTE_TYPE_INVALID {
		return false, nil
	}
	return false, s.Check("C_GetAttributeValue", rv)
}
