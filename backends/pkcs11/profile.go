package pkcs11

import (
	"context"
	"fmt"
	"maps"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// profile is what this token can do and how it wants to be asked, found by
// calling it: mechanism lists promise too much and too little.
type profile struct {
	// omitted are the attributes that the token refuses in a template.
	omitted map[attributeOf]bool
	// gcm: CKM_AES_GCM gives the right ciphertext and refuses a wrong tag.
	gcm bool
	// gcmIV: the token chooses the IV and writes it to a zeroed buffer.
	gcmIV bool
	// keyWrap is the mechanism that is RFC 5649 here; 0: none.
	keyWrap uint
	// keyWrapExact: keyWrap keeps every length. SoftHSM2 pads keys to a
	// multiple of 8 bytes, when it wraps them and when it unwraps them.
	keyWrapExact bool
	// unwrapOmits are the attributes that C_UnwrapKey refuses in every template. What it
	// makes has the token's values then.
	unwrapOmits []uint
	// keyWrapSafe: what keyWrap unwraps is sensitive and not extractable if it is to be.
	keyWrapSafe bool
	// edwardsOID: CKA_EC_PARAMS of an Edwards curve is its OID (RFC 8410) and not its name.
	edwardsOID bool
	// edwardsWraps: keyWrap wraps an Ed25519 private key in the form of RFC 8410.
	edwardsWraps bool
	// deriveCBC: CKM_AES_CBC_ENCRYPT_DATA works, into keys of any length.
	deriveCBC bool
	// oaep are the hashes that CKM_RSA_PKCS_OAEP wraps with, by the name of
	// AWS's algorithm.
	oaep map[backends.Algorithm]bool
	// wrapCBCPad: CKM_AES_CBC_PAD wraps keys of every length.
	wrapCBCPad bool
	// readable: a session key that is not sensitive can be generated and read.
	readable bool
	// hmac are the HMAC specs whose mechanism gives the right answer.
	hmac map[backends.KeySpec]bool
	// labels is the form of CKA_LABEL that the token takes.
	labels labelForm
	// lasting: pairs are made as token objects only, and are probed as such.
	lasting bool
	// forced are usage attributes of private keys that the token sets to true, whatever
	// is asked. This package never uses a key for what its purpose does not name.
	forced map[attributeOf]bool
	// rawSigning: an RSA key signs with CKM_RSA_PKCS only if CKA_ALLOWED_MECHANISMS has
	// CKM_RSA_X_509, too.
	rawSigning bool
	importProfile
	facts map[string]string
}

// ckmCloudHSMKeyWrapZeroPad is AWS CloudHSM's RFC 5649
// (CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD).
const ckmCloudHSMKeyWrapZeroPad = 0x8000216F

// keyWraps are the mechanism numbers that are RFC 5649 in some token:
// CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD (RFC 5649 in SoftHSM2, RFC 3394
// over PKCS #7 padding elsewhere) and CloudHSM's own.
var keyWraps = []uint{0x210B, 0x210A, ckmCloudHSMKeyWrapZeroPad}

// prober probes on one session, with session objects only.
type prober struct {
	*profile
	s     *session
	token *Token
	made  []cryptoki.Object
	// underRSA is what wrappingRSA has made; 0: nothing yet.
	underRSA cryptoki.Object
}

// probe finds the token's profile out. What it makes is destroyed.
func (t *Token) probe(ctx context.Context) (p *profile, err error) {
	err = t.undoubted(ctx, func() error {
		p, err = t.probeOnce(ctx)
		return err
	})
	return p, err
}

func (t *Token) probeOnce(ctx context.Context) (*profile, error) {
	p := &profile{
		omitted: map[attributeOf]bool{},
		oaep:    map[backends.Algorithm]bool{},
		hmac:    map[backends.KeySpec]bool{},
		forced:  map[attributeOf]bool{},
		facts:   map[string]string{},

		importProfile: newImportProfile(),
	}
	for _, probe := range []func(*prober) error{
		(*prober).templates, (*prober).findLabels, (*prober).encryption, (*prober).keyWrapping, (*prober).macs,
		(*prober).negatives, (*prober).derivation, (*prober).reading, (*prober).recipients, (*prober).cbcWrapping,
		(*prober).edwards, (*prober).rsaDecrypts, (*prober).rsaUnwraps, (*prober).privateUnwraps, (*prober).wrappingPairs,
	} {
		err := t.withSession(ctx, func(s *session) error {
			// Calls that are to fail leave a session in no known state, so
			// each probe has its own.
			s.broken = true
			b := &prober{profile: p, s: s, token: t}
			defer b.destroy()
			return probe(b)
		})
		if err != nil {
			return nil, fmt.Errorf("probing the token: %w", err)
		}
	}
	return p, nil
}

func (b *prober) destroy() {
	for _, o := range b.made {
		b.s.DestroyObject(b.s.handle, o) // closing the session does it too
	}
}

func (b *prober) keep(o cryptoki.Object, rv uint) (cryptoki.Object, uint) {
	if rv == p11.CKR_OK {
		b.made = append(b.made, o)
	}
	return o, rv
}

func (b *prober) generate(mechanism uint, t cryptoki.Template) (cryptoki.Object, uint) {
	return b.keep(b.s.GenerateKey(b.s.handle, cryptoki.Mechanism{Type: mechanism}, t))
}

// fact records what was found, for operators.
func (b *prober) fact(name, value string) { b.facts[name] = value }

// fatal returns the error of rv if it says that the token is lost.
func fatal(call string, rv uint) error {
	if err := failed(call, rv); rv != p11.CKR_GENERAL_ERROR && err.Code == backends.Lost {
		return err
	}
	return nil
}

func yes(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

// rvName names a return value in a fact.
func rvName(rv uint) string { return rvText(rv) }

// probedSecrets are the kinds of secret key that the probe asks for.
var probedSecrets = []struct {
	mechanism uint
	u         purpose
}{
	{p11.CKM_AES_KEY_GEN, purpose{
		class: p11.CKO_SECRET_KEY, keyType: p11.CKK_AES, length: 32,
		uses: []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT}, mechanisms: []uint{p11.CKM_AES_GCM},
	}},
	{p11.CKM_GENERIC_SECRET_KEY_GEN, purpose{
		class: p11.CKO_SECRET_KEY, keyType: p11.CKK_GENERIC_SECRET, length: 32,
		uses: []uint{p11.CKA_SIGN, p11.CKA_VERIFY}, mechanisms: []uint{p11.CKM_SHA256_HMAC},
	}},
}

// templates finds the attributes that the token refuses, by making session
// keys as CMKs are made.
func (b *prober) templates() error {
	for _, k := range probedSecrets {
		_, rv := b.generate(k.mechanism, b.cmk(k.u, false, nil, nil))
		if !refusedTemplate(rv) {
			if err := fatal("C_GenerateKey", rv); err != nil {
				return err
			}
			continue
		}
		b.omit(k.mechanism, k.u)
	}
	var names []string
	for a := range b.omitted {
		names = append(names, attributeNames[a.attribute])
	}
	slices.Sort(names)
	b.fact("attributes-refused", fmt.Sprint(slices.Compact(names)))
	return nil
}

// refusedTemplate reports whether a token did not take a template.
func refusedTemplate(rv uint) bool {
	switch rv {
	case p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID,
		p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_TEMPLATE_INCOMPLETE, p11.CKR_ARGUMENTS_BAD:
		return true
	}
	return false
}

// omit leaves every attribute away that a template may do without, and takes
// back one after the other what the token accepts.
func (b *prober) omit(mechanism uint, u purpose) {
	var may []uint
	for _, a := range usageAttributes[u.class] {
		if !slices.Contains(u.uses, a) {
			may = append(may, a)
		}
	}
	may = append(may, optional...)
	for _, a := range may {
		b.omitted[attributeOf{u.keyType, a}] = true
	}
	for _, a := range may {
		delete(b.omitted, attributeOf{u.keyType, a})
		if _, rv := b.generate(mechanism, b.cmk(u, false, nil, nil)); rv != p11.CKR_OK {
			b.omitted[attributeOf{u.keyType, a}] = true
		}
	}
}

// Facts returns what probing found.
func (p *profile) Facts() map[string]string { return maps.Clone(p.facts) }
