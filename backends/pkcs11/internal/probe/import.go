package probe

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

func newImportProfile() token.ImportProfile {
	return token.ImportProfile{
		OAEPDecrypt:     map[backends.Algorithm]bool{},
		OAEPUnwrap:      map[backends.Algorithm]bool{},
		RSAAESUnwrap:    map[backends.Algorithm]bool{},
		UnwrapsPrivate:  map[der.Form]bool{},
		Wrapping:        map[token.Kind]*token.Purpose{},
		WrappingRefused: map[token.Kind]error{},
	}
}

// rsaKeyOf makes a session object of an RSA private key: of the known one or,
// where the token imports none, of one that it generates, which takes a while.
func (b *prober) rsaKeyOf(uses ...uint) (cryptoki.Object, *rsa.PublicKey, uint) {
	u := &token.Purpose{
		Class: p11.CKO_PRIVATE_KEY, KeyType: p11.CKK_RSA, Uses: uses, Pair: der.Kinds[backends.RSA2048],
		Mechanisms: []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_X_509, p11.CKM_RSA_AES_KEY_WRAP, p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS},
	}
	known := der.KnownRSA()
	var o cryptoki.Object
	rv := b.fit(u, func() (rv uint) {
		o, rv = b.keep(b.s.CreateObject(b.s.Handle, rsaComponents(b.CMK(*u, false, nil, nil), known)))
		return rv
	})
	if rv == p11.CKR_OK {
		return o, &known.PublicKey, rv
	}
	var public cryptoki.Object
	rv = b.fit(u, func() (rv uint) {
		public, o, rv = b.generatePair(u)
		return rv
	})
	if rv != p11.CKR_OK {
		return 0, nil, rv
	}
	key, err := b.parsedPublic(u.Pair, public)
	if err != nil {
		return 0, nil, p11.CKR_GENERAL_ERROR
	}
	return o, key.(*rsa.PublicKey), rv
}

func (b *prober) generatePair(u *token.Purpose) (public, private cryptoki.Object, rv uint) {
	public, private, rv = b.s.GenerateKeyPair(b.s.Handle, cryptoki.Mechanism{Type: u.Pair.Mechanism},
		b.Generation(u.Pair, b.PublicTemplate(u, false, nil, nil)), b.CMK(*u, false, nil, nil))
	if rv == p11.CKR_OK {
		b.made = append(b.made, public, private)
	}
	return public, private, rv
}

func (b *prober) parsedPublic(k *der.Kind, public cryptoki.Object) (any, error) {
	encoded, err := b.s.PublicKey(k, public)
	if err != nil {
		return nil, err
	}
	key, err := der.ParsePublic(k.Spec, encoded)
	if err != nil {
		return nil, err
	}
	return key.Key, nil
}

// rsaComponents appends the value of an RSA private key.
func rsaComponents(t cryptoki.Template, k *rsa.PrivateKey) cryptoki.Template {
	return t.Bytes(p11.CKA_MODULUS, k.N.Bytes()).
		Bytes(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(k.E)).Bytes()).
		Bytes(p11.CKA_PRIVATE_EXPONENT, k.D.Bytes()).
		Bytes(p11.CKA_PRIME_1, k.Primes[0].Bytes()).
		Bytes(p11.CKA_PRIME_2, k.Primes[1].Bytes()).
		Bytes(p11.CKA_EXPONENT_1, k.Precomputed.Dp.Bytes()).
		Bytes(p11.CKA_EXPONENT_2, k.Precomputed.Dq.Bytes()).
		Bytes(p11.CKA_COEFFICIENT, k.Precomputed.Qinv.Bytes())
}

// fit calls make, which makes a pair or a private key by b's templates. If the
// token refuses the template, it leaves every attribute away that it may do
// without, and takes back one after the other what the token accepts.
func (b *prober) fit(u *token.Purpose, try func() uint) uint {
	rv := try()
	if !token.RefusedTemplate(rv) {
		return rv
	}
	public := u.PublicUse()
	var may []uint
	for class, uses := range map[uint][]uint{p11.CKO_PRIVATE_KEY: u.Uses, p11.CKO_PUBLIC_KEY: public} {
		for _, a := range token.UsageOf(class, u.KeyType) {
			if !slices.Contains(uses, a) && !slices.Contains(u.Uses, a) && !slices.Contains(public, a) {
				may = append(may, a)
			}
		}
	}
	may = append(may, token.Optional...)
	var added []token.AttributeOf
	for _, a := range may {
		if at := (token.AttributeOf{KeyType: u.KeyType, Attribute: a}); !b.Omitted[at] {
			b.Omitted[at] = true
			added = append(added, at)
		}
	}
	if rv = try(); rv != p11.CKR_OK {
		for _, at := range added { // that was not it
			delete(b.Omitted, at)
		}
		return rv
	}
	for _, at := range added {
		delete(b.Omitted, at)
		if try() != p11.CKR_OK {
			b.Omitted[at] = true
		}
	}
	return try()
}

// wrappingPairs sums up what the probes of imports found.
func (b *prober) wrappingPairs() error {
	if err := b.importUses(); err != nil {
		return err
	}
	for _, spec := range der.RSASpecs {
		k := token.Kind{Spec: spec, Usage: backends.UnwrapImport}
		if u, err := b.PairPurpose(k); err != nil {
			b.WrappingRefused[k] = err
		} else if !makesRSA(b.token, u.Pair.Bits) {
			b.WrappingRefused[k] = token.Unsupported(PairsOf(u.Pair.Bits))
		} else {
			b.Wrapping[k] = u
		}
	}
	b.importFacts()
	return nil
}

// importUses finds out whether a key may both unwrap and decrypt: nShield takes that for a
// risk. One that decrypts serves every algorithm, if the token takes what came of it.
func (b *prober) importUses() error {
	u, err := b.RSAUnwrapping(&token.Purpose{})
	if err != nil || len(u.Uses) < 2 {
		return nil //nolint:nilerr // there are no wrapping pairs, which pairPurpose says
	}
	if _, _, rv := b.rsaKeyOf(u.Uses...); !token.RefusedTemplate(rv) {
		return token.Fatal("C_GenerateKeyPair", rv)
	}
	b.ImportUse = p11.CKA_DECRYPT
	if _, rv := b.keep(b.s.CreateObject(b.s.Handle, b.lastingKey(p11.CKK_AES).Bytes(p11.CKA_VALUE, KnownKey[:token.KEKLength]))); rv != p11.CKR_OK {
		b.ImportUse = p11.CKA_UNWRAP
		return token.Fatal("C_CreateObject", rv)
	}
	return nil
}

// rsaDecrypts compares what the token decrypts.
func (b *prober) rsaDecrypts() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_DECRYPT)
	if rv != p11.CKR_OK {
		b.fact("rsa-decrypt", "not probed: no RSA private key: "+token.RVName(rv))
		return token.Fatal("C_GenerateKeyPair", rv)
	}
	size := public.Size()
	message := append(make([]byte, size-len(KnownKey)), KnownKey...) // smaller than the modulus
	c := new(big.Int).Exp(new(big.Int).SetBytes(message), big.NewInt(int64(public.E)), public.N)
	out := make([]byte, size)
	err := b.s.RawRSA(key, c.FillBytes(make([]byte, size)), out)
	if err == nil && !bytes.Equal(out, message) {
		b.fact("rsa-decrypt", "no: wrong answer")
		return nil // a module that says so has left its session in any state
	}
	b.RawRSA = err == nil
	b.fact("rsa-x509", token.Yes(b.RawRSA))
	for name, h := range token.OAEPHashes {
		good, err := rsa.EncryptOAEP(h.Hash.New(), rand.Reader, public, KnownKey, nil)
		if err != nil {
			return err
		}
		decrypt := func(c []byte) cryptoki.Result { return b.s.Decrypt(b.s.Handle, key, h.Mechanism(), c, out) }
		r := decrypt(good)
		if err := token.Fatal("C_Decrypt", r.RV); err != nil {
			return err
		}
		right := r.RV == p11.CKR_OK && bytes.Equal(out[:r.N], KnownKey)
		if r.RV == p11.CKR_OK && !right {
			b.fact(h.Fact+"-decrypt", "no: wrong answer")
			return nil
		}
		if right {
			if err := b.toFail(func() {
				altered := bytes.Clone(good)
				altered[len(altered)-1] ^= 1
				right = decrypt(altered).RV != p11.CKR_OK
			}, func() uint { return decrypt(good).RV }); err != nil {
				return err
			}
		}
		b.OAEPDecrypt[name] = right
		b.fact(h.Fact+"-decrypt", token.Yes(right))
	}
	return nil
}

// rsaUnwraps compares what the token unwraps. The material has a length that
// is not a multiple of 8.
func (b *prober) rsaUnwraps() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_UNWRAP)
	if rv != p11.CKR_OK {
		return token.Fatal("C_GenerateKeyPair", rv)
	}
	const length = 33
	kwp, err := subtle.NewKWP(KnownKey[:token.KEKLength])
	if err != nil {
		return err
	}
	wrapped, err := kwp.Wrap(KnownKey[:length])
	if err != nil {
		return err
	}
	for name, h := range token.OAEPHashes {
		direct, err := token.EncryptOAEP(public, h, KnownKey[:length])
		if err != nil {
			return err
		}
		t, lasting := b.Unwrapped(b.SessionKey(p11.CKK_GENERIC_SECRET, 0, false)), b.Unwrapped(b.lastingKey(p11.CKK_GENERIC_SECRET))
		o, rv := b.keep(b.s.UnwrapKey(b.s.Handle, h.Mechanism(), key, direct, t))
		b.OAEPUnwrap[name] = rv == p11.CKR_OK && b.reads(o, KnownKey[:length])
		b.UnwrappedLength = b.UnwrappedLength || rv == p11.CKR_OK && b.valueLength(o) == length
		if b.OAEPUnwrap[name] {
			o, rv = b.keep(b.s.UnwrapKey(b.s.Handle, h.Mechanism(), key, direct, lasting))
			b.OAEPUnwrap[name] = rv == p11.CKR_OK && b.staysIn(o)
		}
		twice, err := token.EncryptOAEP(public, h, KnownKey[:token.KEKLength])
		if err != nil {
			return err
		}
		twice = append(twice, wrapped...)
		o, rv = b.keep(b.s.UnwrapRSAAES(b.s.Handle, h.CKM, h.MGF, key, twice, t))
		b.RSAAESUnwrap[name] = rv == p11.CKR_OK && b.reads(o, KnownKey[:length]) && b.valueLength(o) == length
		if b.RSAAESUnwrap[name] {
			o, rv = b.keep(b.s.UnwrapRSAAES(b.s.Handle, h.CKM, h.MGF, key, twice, lasting))
			b.RSAAESUnwrap[name] = rv == p11.CKR_OK && b.staysIn(o)
		}
	}
	return nil
}

// reads reports whether a key that is not sensitive has the value. A token
// that gives no value out is believed.
func (b *prober) reads(o cryptoki.Object, value []byte) bool {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, 2*len(value))
	b.s.GetAttributes(b.s.Handle, o, &q)
	v, ok := q.Value(p11.CKA_VALUE)
	return !ok || bytes.Equal(v, value)
}

// privateUnwraps looks which private keys the token unwraps by RFC 5649.
func (b *prober) privateUnwraps() error {
	if b.KeyWrap == 0 {
		return nil
	}
	kek, kwp, err := b.knownKEK(p11.CKA_UNWRAP)
	if err != nil || kwp == nil {
		return err
	}
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), KnownKey[:32])
	if err != nil {
		return err
	}
	for f, k := range map[der.Form]any{
		der.RSAKey: der.KnownRSA(), der.ECKey: ec, der.EdwardsKey: ed25519.NewKeyFromSeed(KnownKey[:32]),
	} {
		encoded, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		wrapped, err := kwp.Wrap(encoded)
		if err != nil {
			return err
		}
		var o cryptoki.Object
		var rv uint
		b.mayLack(func() { // SoftHSM2 answers CKR_FUNCTION_FAILED for Ed25519
			o, rv = b.keep(b.s.UnwrapKey(b.s.Handle, cryptoki.Mechanism{Type: b.KeyWrap}, kek, wrapped, b.Unwrapped(b.PrivateTemplate(f, true, false))))
		})
		b.UnwrapsPrivate[f] = rv == p11.CKR_OK && b.staysIn(o)
		if private, ok := k.(ed25519.PrivateKey); ok && b.UnwrapsPrivate[f] {
			// Its public key cannot be found out but by asking.
			encoded, err := b.s.EdwardsPublic(der.Kinds[backends.Ed25519], o)
			b.UnwrapsPrivate[f] = err == nil && bytes.HasSuffix(encoded, private.Public().(ed25519.PublicKey))
		}
	}
	return nil
}

// knownKEK makes a key-encryption key of known value, and Go's twin of it: nil if the
// token makes none.
func (b *prober) knownKEK(uses ...uint) (cryptoki.Object, *subtle.KWP, error) {
	kek, value, rv := b.known(p11.CKK_AES, token.KEKLength, uses...)
	if rv != p11.CKR_OK {
		return 0, nil, token.Fatal("C_CreateObject", rv)
	}
	kwp, err := subtle.NewKWP(value)
	return kek, kwp, err
}

// importFacts says which way imported key material takes.
func (b *prober) importFacts() {
	b.fact("unwrapped-length", token.Yes(b.UnwrappedLength))
	for name, h := range token.OAEPHashes {
		for fact, inToken := range map[string]bool{
			"import-" + h.Fact:             b.OAEPUnwrap[name],
			"import-rsa-aes-" + h.Fact[5:]: b.RSAAESUnwrap[name],
		} {
			switch {
			case inToken && b.ImportUse != p11.CKA_DECRYPT:
				b.fact(fact, "in the token")
			case b.RawRSA && b.ImportUse != p11.CKA_UNWRAP:
				b.fact(fact, "through the plugin")
			default:
				b.fact(fact, "no")
			}
		}
	}
}
