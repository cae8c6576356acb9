package probe

import (
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// findLabels finds out which form of label the token takes, with a session key of a kind that
// it has. One that has no secret keys is believed to take them all.
func (b *prober) findLabels() error {
	for _, k := range probedSecrets {
		t := b.CMK(k.u, false, nil, nil)
		if _, rv := b.generate(k.mechanism, t); rv != p11.CKR_OK {
			continue
		}
		longest := token.LabelPrefix + "system-state-" + strings.Repeat("f", 32) + ":34359738367"
		for _, form := range []token.LabelForm{token.PlainLabels, token.CompactLabels} {
			b.Labels = form
			ok, err := b.takesLabel(k.mechanism, t, b.Label(longest))
			if err != nil {
				return err
			}
			if ok {
				if form == token.CompactLabels {
					b.fact("labels", "38 capital letters and digits")
				}
				return nil
			}
		}
		b.Labels = token.NoLabels
		b.fact("labels", "no")
		return nil
	}
	return nil
}

// takesLabel reports whether a session key has the label that it is made with.
func (b *prober) takesLabel(mechanism uint, t cryptoki.Template, label []byte) (bool, error) {
	o, rv := b.generate(mechanism, t.Without(p11.CKA_LABEL).Bytes(p11.CKA_LABEL, label))
	if rv != p11.CKR_OK { // what has nothing to do with labels is for others to find
		return !token.RefusedTemplate(rv) && rv != p11.CKR_DATA_LEN_RANGE, token.Fatal("C_GenerateKey", rv)
	}
	var q cryptoki.Query
	q.Ask(p11.CKA_LABEL, 256)
	if err := b.s.Attributes(o, &q); err != nil {
		return false, token.Fatal("C_GetAttributeValue", token.RVOf(err))
	}
	got, _ := q.Value(p11.CKA_LABEL)
	return string(got) == string(label), nil
}
