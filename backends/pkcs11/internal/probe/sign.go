package probe

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// SpecAlgorithm is an algorithm with keys of a spec.
type SpecAlgorithm struct {
	Spec      backends.KeySpec
	Algorithm backends.Algorithm
}

// PairProfile is what a token can do with key pairs besides decrypting.
type PairProfile struct {
	// can are the specs and algorithms that give right signatures.
	Can map[SpecAlgorithm]bool
	// refused is why key pairs of a spec cannot be had.
	refused map[backends.KeySpec]error
	// peer encodes a peer's point for CKM_ECDH1_DERIVE; nil: cannot derive.
	Peer  func(point []byte) []byte
	Facts map[string]string
	// lasting: token objects were made to find out. again: there were some of an earlier
	// probe, and nothing was made.
	lasting, again bool
}

// Purpose returns the purpose of a kind of key pair, if the token can have it.
func (p *PairProfile) Purpose(t *token.Profile, k token.Kind) (*token.Purpose, error) {
	if err := p.refused[k.Spec]; err != nil {
		return nil, err
	}
	if k.Usage == backends.KeyAgreement && p.Peer == nil {
		return nil, token.Unsupported("CKM_ECDH1_DERIVE")
	}
	if k.Usage == backends.SignVerify {
		some := false
		for name := range der.Signings {
			some = some || p.Can[SpecAlgorithm{k.Spec, name}]
		}
		if !some {
			return nil, token.Unsupported(der.KindOf(k.Spec).SignMechanism())
		}
	}
	return t.PairPurpose(k)
}

// probePairs makes session keys of each kind and compares what they do with
// the standard library. What it makes is destroyed.
func probePairs(ctx context.Context, t *token.Token) (p *PairProfile, err error) {
	err = undoubted(ctx, t, func() error {
		p, err = probePairsOnce(ctx, t)
		return err
	})
	return p, err
}

func probePairsOnce(ctx context.Context, t *token.Token) (*PairProfile, error) {
	p := &PairProfile{Can: map[SpecAlgorithm]bool{}, refused: map[backends.KeySpec]error{}, Facts: map[string]string{}}
	for _, probe := range []func(*pairProber) error{
		(*pairProber).rsa, (*pairProber).points, (*pairProber).encapsulation, (*pairProber).agreement, (*pairProber).leaks,
	} {
		err := t.WithSession(ctx, func(s *token.Session) error {
			s.Broken = true // as in probe
			b := &pairProber{&prober{Profile: t.Profile, s: s, token: t}, p}
			defer b.destroy()
			return probe(b)
		})
		if err != nil {
			return nil, fmt.Errorf("probing the token for key pairs: %w", err)
		}
	}
	for name, a := range der.Signings {
		p.Facts["sign-"+string(name)] = p.signFact(name, a)
	}
	return p, probeLasting(ctx, t, p)
}

// signFact says whether the token signs so with each kind of key that it has.
func (p *PairProfile) signFact(name backends.Algorithm, a *der.Signing) string {
	missing := "no: " + a.Mechanism
	fact := missing
	for _, spec := range a.Specs {
		switch {
		case p.refused[spec] != nil:
		case !p.Can[SpecAlgorithm{spec, name}]:
			return missing
		default:
			fact = "yes"
		}
	}
	return fact
}

type pairProber struct {
	*prober
	*PairProfile
}

// rsa signs with a session key of 2048 bits, for keys of all lengths.
func (b *pairProber) rsa() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_SIGN)
	if rv != p11.CKR_OK {
		for _, spec := range der.RSASpecs {
			b.refused[spec] = token.Unsupported("CKM_RSA_PKCS_KEY_PAIR_GEN")
		}
		return token.Fatal("C_GenerateKeyPair", rv)
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
			b.Can[SpecAlgorithm{spec, name}] = right
		}
	}
	for _, spec := range der.RSASpecs {
		if bits := der.Kinds[spec].Bits; !makesRSA(b.token, bits) {
			b.refused[spec] = token.Unsupported(PairsOf(bits))
		}
	}
	return nil
}

// makesRSA reports whether the token says that it makes RSA pairs of so many bits: longer
// ones than those of 2048 take too long to be tried. One that says nothing is believed, and
// so is one that counts in bytes.
func makesRSA(t *token.Token, bits uint) bool {
	info, err := t.P11.GetMechanismInfo(t.Slot, []*p11.Mechanism{p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)})
	return err != nil || info.MaxKeySize < 1024 || info.MaxKeySize >= bits
}

// PairsOf names what a token lacks that makes no RSA pairs of so many bits.
func PairsOf(bits uint) string { return fmt.Sprintf("CKM_RSA_PKCS_KEY_PAIR_GEN with %d bits", bits) }

// try signs, and verifies with the public key outside of the token.
func (b *pairProber) try(a *der.Signing, key cryptoki.Object, k *der.Kind, public any) (bool, error) {
	right, err := b.tryOnce(a, key, k, public)
	if err != nil {
		return false, token.Fatal("C_Sign", token.RVOf(err))
	}
	return right, nil
}

// tryOnce is try with the error of every call that fails.
func (b *pairProber) tryOnce(a *der.Signing, key cryptoki.Object, k *der.Kind, public any) (bool, error) {
	input := bytes.Clone(KnownKey[:32])
	if a.Hash != 0 {
		input = make([]byte, a.Hash.Size())
		copy(input, KnownKey)
	}
	signature, err := b.s.Signature(a, key, k, input)
	if err != nil {
		return false, err
	}
	return a.Verify(public, input, signature), nil
}

// points generates a pair of each kind that is not RSA, and signs with it.
func (b *pairProber) points() error {
	for _, s := range der.AsymmetricSpecs {
		k := der.KindOf(s.Spec)
		if k == nil || k.Form == der.RSAKey || k.Form == der.MLKEMKey {
			continue
		}
		u := &token.Purpose{
			Class: p11.CKO_PRIVATE_KEY, KeyType: k.KeyType(), Pair: k,
			Uses: []uint{p11.CKA_SIGN}, Mechanisms: token.SignMechanisms[k.Form],
		}
		var public, private cryptoki.Object
		rv := b.fit(u, func() (rv uint) {
			public, private, rv = b.generatePair(u)
			return rv
		})
		if rv != p11.CKR_OK {
			if err := token.Fatal("C_GenerateKeyPair", rv); err != nil {
				return err
			}
			b.refused[s.Spec] = &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}
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
		b.refused[k.Spec] = token.Unsupported(k.Name)
		return token.Fatal("C_GetAttributeValue", token.RVOf(err))
	}
	for name, a := range der.Signings {
		if !slices.Contains(a.Specs, k.Spec) {
			continue
		}
		right, err := b.try(a, private, k, key)
		if err != nil {
			return err
		}
		b.Can[SpecAlgorithm{k.Spec, name}] = right
	}
	return nil
}

// agreement finds out how CKM_ECDH1_DERIVE wants the peer's point: as it is
// (PKCS#11 2.40) or as a DER OCTET STRING, too (3.0).
func (b *pairProber) agreement() error {
	k := der.Kinds[backends.P256]
	u := &token.Purpose{
		Class: p11.CKO_PRIVATE_KEY, KeyType: k.KeyType(), Pair: k,
		Uses: []uint{p11.CKA_DERIVE}, Mechanisms: []uint{p11.CKM_ECDH1_DERIVE},
	}
	var public, private cryptoki.Object
	rv := b.fit(u, func() (rv uint) {
		public, private, rv = b.generatePair(u)
		return rv
	})
	if rv != p11.CKR_OK {
		return token.Fatal("C_GenerateKeyPair", rv)
	}
	key, err := b.parsedPublic(k, public)
	if err != nil {
		return token.Fatal("C_GetAttributeValue", token.RVOf(err))
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
	for name, encode := range map[string]func([]byte) []byte{"raw": func(p []byte) []byte { return p }, "der": token.OctetString} {
		secret, rv := b.keep(b.s.DeriveECDH(b.s.Handle, private, p11.CKD_NULL, encode(peer.PublicKey().Bytes()),
			b.SessionKey(p11.CKK_GENERIC_SECRET, uint(len(want)), false)))
		if rv != p11.CKR_OK {
			if err := token.Fatal("C_DeriveKey", rv); err != nil {
				return err
			}
			continue
		}
		if got, err := b.s.Read(secret, len(want), len(want)); err == nil && bytes.Equal(got, want) {
			b.Peer = encode
			b.Facts["ecdh-point"] = name
			if name == "raw" {
				break
			}
		}
	}
	return nil
}
