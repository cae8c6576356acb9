package pkcs11

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
)

// importProfile is what a token can do with RSA private keys that decrypt and
// unwrap. The maps are by the name of AWS's OAEP algorithm.
type importProfile struct {
	// rawRSA: CKM_RSA_X_509 gives the right answer.
	rawRSA bool
	// oaepDecrypt: CKM_RSA_PKCS_OAEP decrypts. oaepUnwrap: it unwraps, to keys that stay
	// in the token. rsaAESUnwrap: CKM_RSA_AES_KEY_WRAP does, to keys of any length.
	oaepDecrypt, oaepUnwrap, rsaAESUnwrap map[backends.Algorithm]bool
	// unwrappedLength: CKA_VALUE_LEN tells how long an unwrapped secret key is.
	// SoftHSM2 has 0 there.
	unwrappedLength bool
	// unwrapsPrivate are the forms of private key that C_UnwrapKey makes of
	// PKCS #8 so that they stay in the token and their public key can be found out.
	unwrapsPrivate map[der.Form]bool
	// importUse is the one use of a wrapping pair, CKA_UNWRAP or CKA_DECRYPT, in a token
	// that makes none with both; 0 in others.
	importUse uint
	// wrapping has a purpose, or wrappingRefused why there is none, for each
	// kind of wrapping pair.
	wrapping        map[kind]*purpose
	wrappingRefused map[kind]error
}

func newImportProfile() importProfile {
	return importProfile{
		oaepDecrypt:     map[backends.Algorithm]bool{},
		oaepUnwrap:      map[backends.Algorithm]bool{},
		rsaAESUnwrap:    map[backends.Algorithm]bool{},
		unwrapsPrivate:  map[der.Form]bool{},
		wrapping:        map[kind]*purpose{},
		wrappingRefused: map[kind]error{},
	}
}

// rsaKeyOf makes a session object of an RSA private key: of the known one or,
// where the token imports none, of one that it generates, which takes a while.
func (b *prober) rsaKeyOf(uses ...uint) (cryptoki.Object, *rsa.PublicKey, uint) {
	u := &purpose{
		class: p11.CKO_PRIVATE_KEY, keyType: p11.CKK_RSA, uses: uses, pair: der.Kinds[backends.RSA2048],
		mechanisms: []uint{p11.CKM_RSA_PKCS_OAEP, p11.CKM_RSA_X_509, p11.CKM_RSA_AES_KEY_WRAP, p11.CKM_RSA_PKCS, p11.CKM_RSA_PKCS_PSS},
	}
	known := der.KnownRSA()
	var o cryptoki.Object
	rv := b.fit(u, func() (rv uint) {
		o, rv = b.keep(b.s.CreateObject(b.s.handle, rsaComponents(b.cmk(*u, false, nil, nil), known)))
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
	key, err := b.parsedPublic(u.pair, public)
	if err != nil {
		return 0, nil, p11.CKR_GENERAL_ERROR
	}
	return o, key.(*rsa.PublicKey), rv
}

func (b *prober) generatePair(u *purpose) (public, private cryptoki.Object, rv uint) {
	public, private, rv = b.s.GenerateKeyPair(b.s.handle, cryptoki.Mechanism{Type: u.pair.Mechanism},
		b.generation(u.pair, b.publicTemplate(u, false, nil, nil)), b.cmk(*u, false, nil, nil))
	if rv == p11.CKR_OK {
		b.made = append(b.made, public, private)
	}
	return public, private, rv
}

func (b *prober) parsedPublic(k *der.Kind, public cryptoki.Object) (any, error) {
	encoded, err := b.s.publicKey(k, public)
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
func (b *prober) fit(u *purpose, try func() uint) uint {
	rv := try()
	if !refusedTemplate(rv) {
		return rv
	}
	public := u.publicUse()
	var may []uint
	for class, uses := range map[uint][]uint{p11.CKO_PRIVATE_KEY: u.uses, p11.CKO_PUBLIC_KEY: public} {
		for _, a := range usageOf(class, u.keyType) {
			if !slices.Contains(uses, a) && !slices.Contains(u.uses, a) && !slices.Contains(public, a) {
				may = append(may, a)
			}
		}
	}
	may = append(may, optional...)
	var added []attributeOf
	for _, a := range may {
		if at := (attributeOf{u.keyType, a}); !b.omitted[at] {
			b.omitted[at] = true
			added = append(added, at)
		}
	}
	if rv = try(); rv != p11.CKR_OK {
		for _, at := range added { // that was not it
			delete(b.omitted, at)
		}
		return rv
	}
	for _, at := range added {
		delete(b.omitted, at)
		if try() != p11.CKR_OK {
			b.omitted[at] = true
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
		k := kind{spec, backends.UnwrapImport}
		if u, err := b.pairPurpose(k); err != nil {
			b.wrappingRefused[k] = err
		} else if !b.token.makesRSA(u.pair.Bits) {
			b.wrappingRefused[k] = unsupported(pairsOf(u.pair.Bits))
		} else {
			b.wrapping[k] = u
		}
	}
	b.importFacts()
	return nil
}

// importUses finds out whether a key may both unwrap and decrypt: nShield takes that for a
// risk. One that decrypts serves every algorithm, if the token takes what came of it.
func (b *prober) importUses() error {
	u, err := b.rsaUnwrapping(&purpose{})
	if err != nil || len(u.uses) < 2 {
		return nil //nolint:nilerr // there are no wrapping pairs, which pairPurpose says
	}
	if _, _, rv := b.rsaKeyOf(u.uses...); !refusedTemplate(rv) {
		return fatal("C_GenerateKeyPair", rv)
	}
	b.importUse = p11.CKA_DECRYPT
	if _, rv := b.keep(b.s.CreateObject(b.s.handle, b.lastingKey(p11.CKK_AES).Bytes(p11.CKA_VALUE, probeKey[:kekLength]))); rv != p11.CKR_OK {
		b.importUse = p11.CKA_UNWRAP
		return fatal("C_CreateObject", rv)
	}
	return nil
}

// rsaDecrypts compares what the token decrypts.
func (b *prober) rsaDecrypts() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_DECRYPT)
	if rv != p11.CKR_OK {
		b.fact("rsa-decrypt", "not probed: no RSA private key: "+rvName(rv))
		return fatal("C_GenerateKeyPair", rv)
	}
	size := public.Size()
	message := append(make([]byte, size-len(probeKey)), probeKey...) // smaller than the modulus
	c := new(big.Int).Exp(new(big.Int).SetBytes(message), big.NewInt(int64(public.E)), public.N)
	out := make([]byte, size)
	err := b.s.rawRSA(key, c.FillBytes(make([]byte, size)), out)
	if err == nil && !bytes.Equal(out, message) {
		b.fact("rsa-decrypt", "no: wrong answer")
		return nil // a module that says so has left its session in any state
	}
	b.rawRSA = err == nil
	b.fact("rsa-x509", yes(b.rawRSA))
	for name, h := range oaepHashes {
		good, err := rsa.EncryptOAEP(h.hash.New(), rand.Reader, public, probeKey, nil)
		if err != nil {
			return err
		}
		decrypt := func(c []byte) cryptoki.Result { return b.s.Decrypt(b.s.handle, key, h.mechanism(), c, out) }
		r := decrypt(good)
		if err := fatal("C_Decrypt", r.RV); err != nil {
			return err
		}
		right := r.RV == p11.CKR_OK && bytes.Equal(out[:r.N], probeKey)
		if r.RV == p11.CKR_OK && !right {
			b.fact(h.fact+"-decrypt", "no: wrong answer")
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
		b.oaepDecrypt[name] = right
		b.fact(h.fact+"-decrypt", yes(right))
	}
	return nil
}

// rsaUnwraps compares what the token unwraps. The material has a length that
// is not a multiple of 8.
func (b *prober) rsaUnwraps() error {
	key, public, rv := b.rsaKeyOf(p11.CKA_UNWRAP)
	if rv != p11.CKR_OK {
		return fatal("C_GenerateKeyPair", rv)
	}
	const length = 33
	kwp, err := subtle.NewKWP(probeKey[:kekLength])
	if err != nil {
		return err
	}
	wrapped, err := kwp.Wrap(probeKey[:length])
	if err != nil {
		return err
	}
	for name, h := range oaepHashes {
		direct, err := oaep(public, h, probeKey[:length])
		if err != nil {
			return err
		}
		t, lasting := b.unwrapped(b.sessionKey(p11.CKK_GENERIC_SECRET, 0, false)), b.unwrapped(b.lastingKey(p11.CKK_GENERIC_SECRET))
		o, rv := b.keep(b.s.UnwrapKey(b.s.handle, h.mechanism(), key, direct, t))
		b.oaepUnwrap[name] = rv == p11.CKR_OK && b.reads(o, probeKey[:length])
		b.unwrappedLength = b.unwrappedLength || rv == p11.CKR_OK && b.valueLength(o) == length
		if b.oaepUnwrap[name] {
			o, rv = b.keep(b.s.UnwrapKey(b.s.handle, h.mechanism(), key, direct, lasting))
			b.oaepUnwrap[name] = rv == p11.CKR_OK && b.staysIn(o)
		}
		twice, err := oaep(public, h, probeKey[:kekLength])
		if err != nil {
			return err
		}
		twice = append(twice, wrapped...)
		o, rv = b.keep(b.s.UnwrapRSAAES(b.s.handle, h.ckm, h.mgf, key, twice, t))
		b.rsaAESUnwrap[name] = rv == p11.CKR_OK && b.reads(o, probeKey[:length]) && b.valueLength(o) == length
		if b.rsaAESUnwrap[name] {
			o, rv = b.keep(b.s.UnwrapRSAAES(b.s.handle, h.ckm, h.mgf, key, twice, lasting))
			b.rsaAESUnwrap[name] = rv == p11.CKR_OK && b.staysIn(o)
		}
	}
	return nil
}

// reads reports whether a key that is not sensitive has the value. A token
// that gives no value out is believed.
func (b *prober) reads(o cryptoki.Object, value []byte) bool {
	var q cryptoki.Query
	q.Ask(p11.CKA_VALUE, 2*len(value))
	b.s.GetAttributes(b.s.handle, o, &q)
	v, ok := q.Value(p11.CKA_VALUE)
	return !ok || bytes.Equal(v, value)
}

// privateUnwraps looks which private keys the token unwraps by RFC 5649.
func (b *prober) privateUnwraps() error {
	if b.keyWrap == 0 {
		return nil
	}
	kek, kwp, err := b.knownKEK(p11.CKA_UNWRAP)
	if err != nil || kwp == nil {
		return err
	}
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), probeKey[:32])
	if err != nil {
		return err
	}
	for f, k := range map[der.Form]any{
		der.RSAKey: der.KnownRSA(), der.ECKey: ec, der.EdwardsKey: ed25519.NewKeyFromSeed(probeKey[:32]),
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
			o, rv = b.keep(b.s.UnwrapKey(b.s.handle, cryptoki.Mechanism{Type: b.keyWrap}, kek, wrapped, b.unwrapped(b.privateTemplate(f, true, false))))
		})
		b.unwrapsPrivate[f] = rv == p11.CKR_OK && b.staysIn(o)
		if private, ok := k.(ed25519.PrivateKey); ok && b.unwrapsPrivate[f] {
			// Its public key cannot be found out but by asking.
			encoded, err := b.s.edwardsPublic(der.Kinds[backends.Ed25519], o)
			b.unwrapsPrivate[f] = err == nil && bytes.HasSuffix(encoded, private.Public().(ed25519.PublicKey))
		}
	}
	return nil
}

// knownKEK makes a key-encryption key of known value, and Go's twin of it: nil if the
// token makes none.
func (b *prober) knownKEK(uses ...uint) (cryptoki.Object, *subtle.KWP, error) {
	kek, value, rv := b.known(p11.CKK_AES, kekLength, uses...)
	if rv != p11.CKR_OK {
		return 0, nil, fatal("C_CreateObject", rv)
	}
	kwp, err := subtle.NewKWP(value)
	return kek, kwp, err
}

// importFacts says which way imported key material takes.
func (b *prober) importFacts() {
	b.fact("unwrapped-length", yes(b.unwrappedLength))
	for name, h := range oaepHashes {
		for fact, token := range map[string]bool{
			"import-" + h.fact:             b.oaepUnwrap[name],
			"import-rsa-aes-" + h.fact[5:]: b.rsaAESUnwrap[name],
		} {
			switch {
			case token && b.importUse != p11.CKA_DECRYPT:
				b.fact(fact, "in the token")
			case b.rawRSA && b.importUse != p11.CKA_UNWRAP:
				b.fact(fact, "through the plugin")
			default:
				b.fact(fact, "no")
			}
		}
	}
}
