package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
)

// specAlgorithm is an algorithm with keys of a spec.
type specAlgorithm struct {
	spec      backends.KeySpec
	algorithm backends.Algorithm
}

// signProfile is what a token can do with key pairs besides decrypting.
type signProfile struct {
	// can are the specs and algorithms that give right signatures.
	can map[specAlgorithm]bool
	// refused is why key pairs of a spec cannot be had.
	refused map[backends.KeySpec]error
	// peer encodes a peer's point for CKM_ECDH1_DERIVE; nil: cannot derive.
	peer  func(point []byte) []byte
	facts map[string]string
	// lasting: token objects were made to find out. again: there were some of an earlier
	// probe, and nothing was made.
	lasting, again bool
}

// purpose returns the purpose of a kind of key pair, if the token can have it.
func (p *signProfile) purpose(t *profile, k kind) (*purpose, error) {
	if err := p.refused[k.spec]; err != nil {
		return nil, err
	}
	if k.usage == backends.KeyAgreement && p.peer == nil {
		return nil, unsupported("CKM_ECDH1_DERIVE")
	}
	if k.usage == backends.SignVerify {
		some := false
		for name := range der.Signings {
			some = some || p.can[specAlgorithm{k.spec, name}]
		}
		if !some {
			return nil, unsupported(der.KindOf(k.spec).SignMechanism())
		}
	}
	return t.pairPurpose(k)
}

// probePairs makes session keys of each kind and compares what they do with
// the standard library. What it makes is destroyed.
func (t *Token) probePairs(ctx context.Context) (p *signProfile, err error) {
	err = t.undoubted(ctx, func() error {
		p, err = t.probePairsOnce(ctx)
		return err
	})
	return p, err
}

func (t *Token) probePairsOnce(ctx context.Context) (*signProfile, error) {
	p := &signProfile{can: map[specAlgorithm]bool{}, refused: map[backends.KeySpec]error{}, facts: map[string]string{}}
	for _, probe := range []func(*pairProber) error{
		(*pairProber).rsa, (*pairProber).points, (*pairProber).encapsulation, (*pairProber).agreement, (*pairProber).leaks,
	} {
		err := t.withSession(ctx, func(s *session) error {
			s.broken = true // as in probe
			b := &pairProber{&prober{profile: t.profile, s: s, token: t}, p}
			defer b.destroy()
			return probe(b)
		})
		if err != nil {
			return nil, fmt.Errorf("probing the token for key pairs: %w", err)
		}
	}
	for name, a := range der.Signings {
		p.facts["sign-"+string(name)] = p.signFact(name, a)
	}
	return p, t.lasting(ctx, p)
}

// signFact says whether the token signs so with each kind of key that it has.
func (p *signProfile) signFact(name backends.Algorithm, a *der.Signing) string {
	missing := "no: " + a.Mechanism
	fact := missing
	for _, spec := range a.Specs {
		switch {
		case p.refused[spec] != nil:
		case !p.can[specAlgorithm{spec, name}]:
			return missing
		default:
			fact = "yes"
		}
	}
	return fact
}

type pairProber struct {
	*prober
	*signProfile
}

// rsa signs with a session key of 2048 bits, for keys of all lengths.
func (b *pairProber) rsa() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_SIGN)
	if rv != p11.CKR_OK {
		for _, spec := range der.RSASpecs {
			b.refused[spec] = unsupported("CKM_RSA_PKCS_KEY_PAIR_GEN")
		}
		return fatal("C_GenerateKeyPair", rv)
	}
	for name, a := range der.Signings {
		if a.Scheme != der.RSAPKCS1 && a.Scheme != der.RSAPSS {
			continue
		}
		right, err := b.try(a, key, der.Kinds[backends.RSA2048], public)
		if err != nil {
			return err
		}
		for _, spec := range der.RSASpecs {
			b.can[specAlgorithm{spec, name}] = right
		}
	}
	for _, spec := range der.RSASpecs {
		if bits := der.Kinds[spec].Bits; !b.token.makesRSA(bits) {
			b.refused[spec] = unsupported(pairsOf(bits))
		}
	}
	return nil
}

// makesRSA reports whether the token says that it makes RSA pairs of so many bits: longer
// ones than those of 2048 take too long to be tried. One that says nothing is believed, and
// so is one that counts in bytes.
func (t *Token) makesRSA(bits uint) bool {
	info, err := t.ctx.GetMechanismInfo(t.slot, []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)})
	return err != nil || info.MaxKeySize < 1024 || info.MaxKeySize >= bits
}

// pairsOf names what a token lacks that makes no RSA pairs of so many bits.
func pairsOf(bits uint) string { return fmt.Sprintf("CKM_RSA_PKCS_KEY_PAIR_GEN with %d bits", bits) }

// try signs, and verifies with the public key outside of the token.
func (b *pairProber) try(a *der.Signing, key cryptoki.Object, k *der.Kind, public any) (bool, error) {
	right, err := b.tryOnce(a, key, k, public)
	if err != nil {
		return false, fatal("C_Sign", rvOf(err))
	}
	return right, nil
}

// tryOnce is try with the error of every call that fails.
func (b *pairProber) tryOnce(a *der.Signing, key cryptoki.Object, k *der.Kind, public any) (bool, error) {
	input := bytes.Clone(probeKey[:32])
	if a.Hash != 0 {
		input = make([]byte, a.Hash.Size())
		copy(input, probeKey)
	}
	signature, err := b.s.sign(a, key, k, input)
	if err != nil {
		return false, err
	}
	return a.Verify(public, input, signature), nil
}

// points generates a pair of each kind that is not RSA, and signs with it.
func (b *pairProber) points() error {
	for _, s := range asymmetricSpecs {
		k := der.KindOf(s.spec)
		if k == nil || k.Form == der.RSAKey || k.Form == der.MLKEMKey {
			continue
		}
		u := &purpose{
			class: p11.CKO_PRIVATE_KEY, keyType: k.KeyType(), pair: k,
			uses: []uint{p11.CKA_SIGN}, mechanisms: signMechanisms[k.Form],
		}
		var public, private cryptoki.Object
		rv := b.fit(u, func() (rv uint) {
			public, private, rv = b.generatePair(u)
			return rv
		})
		if rv != p11.CKR_OK {
			if err := fatal("C_GenerateKeyPair", rv); err != nil {
				return err
			}
			b.refused[s.spec] = &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}
			continue
		}
		if err := b.signPoint(k, public, private); err != nil {
			return err
		}
	}
	return nil
}

func (b *pairProber) signPoint(k *der.Kind, public, private cryptoki.Object) error {
	key, err := b.parsedPublic(k, public)
	if err != nil {
		b.refused[k.Spec] = unsupported(k.Name)
		return fatal("C_GetAttributeValue", rvOf(err))
	}
	for name, a := range der.Signings {
		if !slices.Contains(a.Specs, k.Spec) {
			continue
		}
		right, err := b.try(a, private, k, key)
		if err != nil {
			return err
		}
		b.can[specAlgorithm{k.Spec, name}] = right
	}
	return nil
}

// agreement finds out how CKM_ECDH1_DERIVE wants the peer's point: as it is
// (PKCS#11 2.40) or as a DER OCTET STRING, too (3.0).
func (b *pairProber) agreement() error {
	k := der.Kinds[backends.P256]
	u := &purpose{
		class: p11.CKO_PRIVATE_KEY, keyType: k.KeyType(), pair: k,
		uses: []uint{p11.CKA_DERIVE}, mechanisms: []uint{p11.CKM_ECDH1_DERIVE},
	}
	var public, private cryptoki.Object
	rv := b.fit(u, func() (rv uint) {
		public, private, rv = b.generatePair(u)
		return rv
	})
	if rv != p11.CKR_OK {
		return fatal("C_GenerateKeyPair", rv)
	}
	key, err := b.parsedPublic(k, public)
	if err != nil {
		return fatal("C_GetAttributeValue", rvOf(err))
	}
	ours, err := key.(*ecdsa.PublicKey).ECDH()
	if err != nil {
		return err
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := peer.ECDH(ours)
	if err != nil {
		return err
	}
	for name, encode := range map[string]func([]byte) []byte{"raw": func(p []byte) []byte { return p }, "der": octetString} {
		secret, rv := b.keep(b.s.DeriveECDH(b.s.handle, private, p11.CKD_NULL, encode(peer.PublicKey().Bytes()),
			b.sessionKey(p11.CKK_GENERIC_SECRET, uint(len(want)), false)))
		if rv != p11.CKR_OK {
			if err := fatal("C_DeriveKey", rv); err != nil {
				return err
			}
			continue
		}
		if got, err := b.s.read(secret, len(want), len(want)); err == nil && bytes.Equal(got, want) {
			b.peer = encode
			b.facts["ecdh-point"] = name
			if name == "raw" {
				break
			}
		}
	}
	return nil
}

func octetString(v []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(v) })
	return b.BytesOrPanic() // short
}
