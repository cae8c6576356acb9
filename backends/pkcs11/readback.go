package pkcs11

import (
	"context"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// attributeNames are for the texts of [backends.KeyUnsafe].
var attributeNames = map[uint]string{
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

// maxAllowed is how many CKA_ALLOWED_MECHANISMS are read back.
const maxAllowed = 16

// readBack holds the attributes of a secret or private key against its
// purpose: [backends.KeyUnsafe], naming what is wrong, if it could leave the
// token or do more than it is for.
func (p *profile) readBack(s *session, o cryptoki.Object, u purpose, imported bool) error {
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
	for _, a := range usageOf(u.class, u.keyType) {
		if u.class == p11.CKO_PRIVATE_KEY && p.forced[attributeOf{u.keyType, a}] && !slices.Contains(u.uses, a) {
			continue
		}
		must[a] = slices.Contains(u.uses, a)
		mayLack[a] = !must[a]
	}
	for _, a := range []uint{p11.CKA_MODIFIABLE, p11.CKA_COPYABLE} {
		if !p.omitted[attributeOf{u.keyType, a}] {
			must[a] = false
		}
	}

	var q cryptoki.Query
	for a := range must {
		q.AskBool(a)
	}
	q.AskULong(p11.CKA_KEY_TYPE, p11.CKA_VALUE_LEN)
	q.AskULongs(p11.CKA_ALLOWED_MECHANISMS, maxAllowed)
	if err := s.attributes(o, &q); err != nil {
		return err
	}

	var wrong []string
	for a, want := range must {
		if got, ok := q.Bool(a); got != want || !ok && !mayLack[a] {
			wrong = append(wrong, attributeNames[a])
		}
	}
	if got, ok := q.ULong(p11.CKA_KEY_TYPE); !ok || got != u.keyType {
		wrong = append(wrong, attributeNames[p11.CKA_KEY_TYPE])
	}
	// What an import unwrapped was measured then; some tokens forget it.
	forgotten := imported && !p.unwrappedLength
	if got, ok := q.ULong(p11.CKA_VALUE_LEN); u.length != 0 && (!ok || got != u.length) && (!forgotten || got != 0) {
		wrong = append(wrong, attributeNames[p11.CKA_VALUE_LEN])
	}
	if len(u.mechanisms) > 0 && !p.omitted[attributeOf{u.keyType, p11.CKA_ALLOWED_MECHANISMS}] {
		if got, _ := q.ULongs(p11.CKA_ALLOWED_MECHANISMS); !u.allows(got) {
			wrong = append(wrong, attributeNames[p11.CKA_ALLOWED_MECHANISMS])
		}
	}
	if u.pair != nil {
		if name, err := s.mismatch(u.pair, o); err != nil {
			return err
		} else if name != "" {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) == 0 && gaveOut(s, o, secretAttribute(u)) {
		return backends.Errorf(backends.KeyUnsafe, "the token reads the value of a key that is sensitive")
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return &backends.Error{
			Code:    backends.KeyUnsafe,
			Message: fmt.Sprintf("attributes that are not as its template has them: %s", strings.Join(wrong, ", ")),
		}
	}
	return nil
}

// secretAttribute is an attribute of a secret or private key that must not be read.
func secretAttribute(u purpose) uint {
	if u.keyType == p11.CKK_RSA {
		return p11.CKA_PRIVATE_EXPONENT
	}
	return p11.CKA_VALUE
}

// allows reports whether the mechanisms that a key allows are those of its
// purpose; tolerated ones may be among them or in their place.
func (u *purpose) allows(got []uint) bool {
	for _, m := range got {
		if !slices.Contains(u.mechanisms, m) && !slices.Contains(u.tolerated, m) {
			return false
		}
	}
	if len(u.tolerated) > 0 {
		return len(got) > 0
	}
	for _, m := range u.mechanisms {
		if !slices.Contains(got, m) {
			return false
		}
	}
	return true
}

// attributes reads what the object has of q.
func (s *session) attributes(o cryptoki.Object, q *cryptoki.Query) error {
	switch rv := s.GetAttributes(s.handle, o, q); rv {
	// Not being there or not being given is for the caller to judge; a
	// value too long for its room reads as absent.
	case p11.CKR_OK, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_BUFFER_TOO_SMALL:
		return nil
	default:
		return s.check("C_GetAttributeValue", rv)
	}
}

// vet reads a key's attributes back.
func (t *Token) vet(ctx context.Context, key *backends.Key, u *purpose, o *object) error {
	err := t.withSession(ctx, func(s *session) error {
		return t.profile.readBack(s, o.handle, *u, key.Imported)
	})
	if err != nil {
		o.safe.Store(nil)
		return err
	}
	o.safe.Store(&vetting{u, key.Imported})
	return nil
}
