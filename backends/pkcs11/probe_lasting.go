package pkcs11

import (
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends/pkcs11/internal/der"
)

// Some tokens make pairs that last and no session objects (tpm2-pkcs11: CKA_TOKEN must be
// true). The probe leaves nothing in a token, not even if it is killed, so it does not find
// out what their keys do, and they are not served. The reason is not that a mechanism is
// missing.

// factSessionPairs is the fact that the token makes no pairs as session objects; it is left
// out for one that does.
const factSessionPairs = "session-key-pairs"

// lasting corrects the reasons why there are no pairs, if the token lists mechanisms that
// make them and has made none for the probe, of whatever kind.
func (t *Token) lasting(p *signProfile) {
	var listed []*der.Kind
	for _, s := range asymmetricSpecs {
		k := der.KindOf(s.spec)
		if p.refused[s.spec] == nil && k.Form != der.MLKEMKey { // those are probed apart
			return
		}
		if k.Form != der.MLKEMKey && t.generates(k.Mechanism) {
			listed = append(listed, k)
		}
	}
	for _, k := range listed {
		p.refused[k.Spec] = unsupported("session objects (CKA_TOKEN false) of " + k.Name)
		for name, a := range der.Signings {
			if slices.Contains(a.Specs, k.Spec) {
				p.facts["sign-"+string(name)] = "not probed: no session key pair"
			}
		}
	}
	if listed != nil {
		p.facts[factSessionPairs] = "no, although the token lists mechanisms for key pairs"
	}
}

// generates reports whether the token lists a mechanism for key pairs.
func (t *Token) generates(mechanism uint) bool {
	info, err := t.ctx.GetMechanismInfo(t.slot, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)})
	return err == nil && info.Flags&p11.CKF_GENERATE_KEY_PAIR != 0
}
