// Package probe finds out what a token can do and how it wants to be asked, by calling it,
// and refuses one that lets a sensitive key out. What it makes is destroyed.
package probe

import (
	"context"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/token"
)

// prober probes on one session, with session objects only.
type prober struct {
	*token.Profile
	s     *token.Session
	token *token.Token
	made  []cryptoki.Object
	// underRSA is what wrappingRSA has made; 0: nothing yet.
	underRSA cryptoki.Object
	// underSecret is what wrappingSecret has made, by key type.
	underSecret map[uint]cryptoki.Object
	// noWrapping are the sorts of key that wrap of which the token made none.
	noWrapping []string
	// listed is what listedWraps found; nil: not asked yet.
	listed []cryptoki.Mechanism
}

// Profile finds the token's profile out. What it makes is destroyed.
func Profile(ctx context.Context, t *token.Token) (p *token.Profile, err error) {
	err = undoubted(ctx, t, func() error {
		p, err = probeOnce(ctx, t)
		return err
	})
	return p, err
}

func probeOnce(ctx context.Context, t *token.Token) (*token.Profile, error) {
	p := &token.Profile{
		Omitted: map[token.AttributeOf]bool{},
		OAEP:    map[backends.Algorithm]bool{},
		HMAC:    map[backends.KeySpec]bool{},
		Forced:  map[token.AttributeOf]bool{},
		Untried: map[backends.KeySpec]uint{},
		Found:   map[string]string{},

		ImportProfile: newImportProfile(),
	}
	for _, probe := range []func(*prober) error{
		(*prober).templates, (*prober).findLabels, (*prober).encryption, (*prober).keyWrapping, (*prober).macs,
		(*prober).negatives, (*prober).derivation, (*prober).reading, (*prober).recipients, (*prober).cbcWrapping,
		(*prober).edwards, (*prober).rsaDecrypts, (*prober).rsaUnwraps, (*prober).privateUnwraps, (*prober).wrappingPairs,
	} {
		err := t.WithSession(ctx, func(s *token.Session) error {
			// Calls that are to fail leave a session in no known state, so
			// each probe has its own.
			s.Broken = true
			b := &prober{Profile: p, s: s, token: t}
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
		b.s.DestroyObject(b.s.Handle, o) // closing the session does it too
	}
}

func (b *prober) keep(o cryptoki.Object, rv uint) (cryptoki.Object, uint) {
	if rv == p11.CKR_OK {
		b.made = append(b.made, o)
	}
	return o, rv
}

func (b *prober) generate(mechanism uint, t cryptoki.Template) (cryptoki.Object, uint) {
	return b.keep(b.s.GenerateKey(b.s.Handle, cryptoki.Mechanism{Type: mechanism}, t))
}

// fact records what was found, for operators.
func (b *prober) fact(name, value string) { b.Found[name] = value }

// probedSecrets are the kinds of secret key that the probe asks for.
var probedSecrets = []struct {
	mechanism uint
	u         token.Purpose
}{
	{p11.CKM_AES_KEY_GEN, token.Purpose{
		Class: p11.CKO_SECRET_KEY, KeyType: p11.CKK_AES, Length: 32,
		Uses: []uint{p11.CKA_ENCRYPT, p11.CKA_DECRYPT}, Mechanisms: []uint{p11.CKM_AES_GCM},
	}},
	{p11.CKM_GENERIC_SECRET_KEY_GEN, token.Purpose{
		Class: p11.CKO_SECRET_KEY, KeyType: p11.CKK_GENERIC_SECRET, Length: 32,
		Uses: []uint{p11.CKA_SIGN, p11.CKA_VERIFY}, Mechanisms: []uint{p11.CKM_SHA256_HMAC},
	}},
}

// templates finds the attributes that the token refuses, by making session
// keys as CMKs are made.
func (b *prober) templates() error {
	for _, k := range probedSecrets {
		_, rv := b.generate(k.mechanism, b.CMK(k.u, false, nil, nil))
		if !token.RefusedTemplate(rv) {
			if err := token.Fatal("C_GenerateKey", rv); err != nil {
				return err
			}
			continue
		}
		b.omit(k.mechanism, k.u)
	}
	var names []string
	for a := range b.Omitted {
		names = append(names, token.AttributeNames[a.Attribute])
	}
	slices.Sort(names)
	b.fact("attributes-refused", fmt.Sprint(slices.Compact(names)))
	return nil
}

// omit leaves every attribute away that a template may do without, and takes
// back one after the other what the token accepts.
func (b *prober) omit(mechanism uint, u token.Purpose) {
	var may []uint
	for _, a := range token.UsageAttributes[u.Class] {
		if !slices.Contains(u.Uses, a) {
			may = append(may, a)
		}
	}
	may = append(may, token.Optional...)
	for _, a := range may {
		b.Omitted[token.AttributeOf{KeyType: u.KeyType, Attribute: a}] = true
	}
	for _, a := range may {
		delete(b.Omitted, token.AttributeOf{KeyType: u.KeyType, Attribute: a})
		if _, rv := b.generate(mechanism, b.CMK(u, false, nil, nil)); rv != p11.CKR_OK {
			b.Omitted[token.AttributeOf{KeyType: u.KeyType, Attribute: a}] = true
		}
	}
}
