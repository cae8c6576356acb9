package pkcs11

import (
	"context"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// importAlgorithm is an AlgorithmSpec of GetParametersForImport.
// https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
type importAlgorithm struct {
	oaep backends.Algorithm
	// twice: RSA-OAEP of an AES-256 key, then the material under that by
	// RFC 5649. Otherwise RSA-OAEP of the material.
	twice bool
}

var importAlgorithms = map[backends.Algorithm]importAlgorithm{
	"RSAES_OAEP_SHA_1":         {"RSAES_OAEP_SHA_1", false},
	"RSAES_OAEP_SHA_256":       {"RSAES_OAEP_SHA_256", false},
	"RSA_AES_KEY_WRAP_SHA_1":   {"RSAES_OAEP_SHA_1", true},
	"RSA_AES_KEY_WRAP_SHA_256": {"RSAES_OAEP_SHA_256", true},
}

// arrival is key material on its way into the token. One of three is made of
// it:
//   - where the token can do the algorithm, the wrapping pair unwraps it and
//     nothing is seen here;
//   - else, of RSA_AES_KEY_WRAP, only the AES key passes through this process,
//     and the token unwraps the material with it;
//   - else the material passes through this process.
type arrival struct {
	*Token
	in        *backends.ImportKeyRequest
	key       *token.Purpose // what it becomes
	wrapping  *token.Purpose
	algorithm importAlgorithm

	// destroyed: the key that the token made could leave it, and has been destroyed.
	destroyed bool
	// outside: the material passes through this process although the token unwraps it,
	// since what it made could leave it.
	outside bool
	// aesKey wraps wrapped; nil: it did not come here.
	aesKey, wrapped []byte
	// material is the key material; nil: it did not come here.
	material []byte
	private  *der.PrivateKey // material taken apart, of a private key
}

// ImportKey implements [backends.Importer].
func (b *Asymmetric) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	return b.importKey(ctx, in, u)
}

// ImportKey implements [backends.Importer].
func (b *secrets) ImportKey(ctx context.Context, in *backends.ImportKeyRequest) (*backends.ImportKeyAnswer, error) {
	u, err := b.purpose(&in.Key)
	if err != nil {
		return nil, err
	}
	return b.importKey(ctx, in, u)
}

// importKey brings key material into the token. A session key is made of it
// and tried first: material that is not a key of the purpose never becomes a
// token object, not even for a moment in which the process may end.
func (t *Token) importKey(ctx context.Context, in *backends.ImportKeyRequest, u *token.Purpose) (*backends.ImportKeyAnswer, error) {
	a, err := t.arrive(in, u)
	if err != nil {
		return nil, err
	}
	defer a.clear()
	answer, err := a.bring(ctx)
	if !a.destroyed || a.material != nil || !a.opens() {
		return answer, err
	}
	// A key made of its components is another matter.
	unsure := backends.Doubtful(err)
	a.outside = true
	if answer, err = a.bring(ctx); err != nil {
		return nil, backends.DoubtIf(unsure, err)
	}
	answer.Unsure = answer.Unsure || unsure
	return answer, nil
}

// bring brings the material in, on the way that the token takes.
func (a *arrival) bring(ctx context.Context) (*backends.ImportKeyAnswer, error) {
	t, in, u := a.Token, a.in, a.key
	if !a.inToken() {
		if err := a.open(ctx); err != nil {
			return nil, err
		}
	}
	var answer *backends.ImportKeyAnswer
	err := token.Blame(func() (err error) {
		answer, err = a.tryOut(ctx)
		return err
	}, func() error { return a.canary(ctx) }, invalidMaterial())
	if backends.CodeOf(err) == backends.InvalidMaterial {
		return nil, a.refused(ctx)
	}
	if err != nil {
		return nil, err
	}
	answer.ThroughPlugin = !a.inToken()
	return token.Persist(ctx, t.Token, func(unsure bool) (*backends.ImportKeyAnswer, error) {
		existed, err := t.exists(ctx, &in.Key, u)
		switch {
		case err != nil:
		case existed:
			err = backends.Doubt(a.same(ctx, answer))
		default:
			answer.Unsure = unsure
			err = a.store(ctx, answer.PublicKey)
		}
		if err != nil {
			return nil, err
		}
		return answer, nil
	}, func(failed error) error {
		_, err := a.tryOut(ctx)
		return token.Verdict(failed, err)
	})
}

// arrive checks a request as far as that can be done without a key.
func (t *Token) arrive(in *backends.ImportKeyRequest, u *token.Purpose) (*arrival, error) {
	a := &arrival{Token: t, in: in, key: u}
	var ok bool
	if a.algorithm, ok = importAlgorithms[in.Algorithm]; !ok {
		return nil, backends.Errorf(backends.InvalidRequest, "no wrapping algorithm %s", in.Algorithm)
	}
	if !in.Key.Imported || in.Key.Usage == backends.UnwrapImport || in.Key.Usage == backends.WrapDataKeys || u.KeyType == cryptoki.CKKMLDSA || u.KeyType == cryptoki.CKKMLKEM {
		return nil, backends.Errorf(backends.InvalidRequest, "a key of spec %s and usage %s is not imported", in.Key.Spec, in.Key.Usage)
	}
	if in.Wrapping.Usage != backends.UnwrapImport {
		return nil, backends.Errorf(backends.InvalidRequest, "a key of usage %s does not unwrap key material", in.Wrapping.Usage)
	}
	var err error
	if a.wrapping, err = t.wrappingPurpose(&in.Wrapping); err != nil {
		return nil, err
	}
	size := a.wrapping.Pair.Size()
	switch behind := len(in.Material) - size; {
	case !a.algorithm.twice && behind == 0:
	case a.algorithm.twice && behind >= 16 && behind%8 == 0 && behind <= token.MaxWrapped: // RFC 5649, section 4.1
	default:
		return nil, invalidMaterial()
	}
	if !a.inToken() && !a.opens() {
		return nil, token.Unsupported(a.mechanism())
	}
	return a, nil
}

// opens reports whether material may pass through this process, and can.
func (a *arrival) opens() bool {
	return !a.in.TokenOnly && slices.Contains(a.wrapping.Uses, uint(p11.CKA_DECRYPT))
}

// invalidMaterial is the answer to all material that does not unwrap, whatever
// the reason.
func invalidMaterial() error {
	return &backends.Error{Code: backends.InvalidMaterial, Message: "the key material does not unwrap"}
}

// unfitMaterial is the answer to all material that unwraps, and is not what the
// key spec wants.
func unfitMaterial() error {
	return &backends.Error{Code: backends.UnfitMaterial, Message: "the key material is not a key of the key's spec"}
}

// refused says what is wrong with material of which the token makes no key. A
// token that unwraps and makes a key in one call does not tell which it refused:
// what unwraps to a secret of any length was well wrapped.
func (a *arrival) refused(ctx context.Context) error {
	if a.material != nil {
		return unfitMaterial()
	}
	err := a.withWrapping(ctx, func(s *token.Session, wrapping cryptoki.Object) error {
		h, err := a.make(s, wrapping, a.Profile.SessionKey(p11.CKK_GENERIC_SECRET, 0, true))
		if err == nil {
			s.Destroy(h)
		}
		return err
	})
	if err == nil {
		return unfitMaterial()
	}
	return invalidMaterial()
}

// inToken reports whether the token can unwrap the material, and prove that it
// is as long as it must be.
func (a *arrival) inToken() bool {
	p := a.Profile
	if !slices.Contains(a.wrapping.Uses, uint(p11.CKA_UNWRAP)) {
		return false
	}
	if a.outside || a.algorithm.twice && !p.RSAAESUnwrap[a.algorithm.oaep] || !a.algorithm.twice && !p.OAEPUnwrap[a.algorithm.oaep] {
		return false
	}
	if a.key.Pair != nil {
		return p.UnwrapsPrivate[a.key.Pair.Form]
	}
	return p.UnwrappedLength || a.key.KeyType == p11.CKK_AES && p.KeyWrap != 0
}

// Mechanism names what the token would need.
func (a *arrival) mechanism() string {
	switch p := a.Profile; {
	case a.algorithm.twice && !p.RSAAESUnwrap[a.algorithm.oaep]:
		return "CKM_RSA_AES_KEY_WRAP"
	case !a.algorithm.twice && !p.OAEPUnwrap[a.algorithm.oaep]:
		return token.OAEPHashes[a.algorithm.oaep].Name
	case a.key.Pair == nil:
		return "CKM_RSA_PKCS_OAEP that tells CKA_VALUE_LEN"
	case a.key.Pair.Form == der.EdwardsKey:
		return "C_UnwrapKey to CKK_EC_EDWARDS with CKA_PUBLIC_KEY_INFO"
	}
	return "C_UnwrapKey to a private key"
}

// Open decrypts, with the bare RSA primitive of the token, what is under the
// wrapping key.
func (a *arrival) open(ctx context.Context) error {
	size := a.wrapping.Pair.Size()
	d := &rsaDecryption{Token: a.Token, key: &a.in.Wrapping, purpose: a.wrapping, hash: token.OAEPHashes[a.algorithm.oaep]}
	opened, err := d.decrypt(ctx, a.in.Material[:size])
	if backends.CodeOf(err) == backends.InvalidCiphertext {
		return invalidMaterial()
	}
	if err != nil {
		return err
	}
	if !a.algorithm.twice {
		return a.see(opened)
	}
	a.aesKey, a.wrapped = opened, a.in.Material[size:]
	if len(a.aesKey) != token.KEKLength {
		return invalidMaterial()
	}
	inToken := a.unwrapsInToken()
	if inToken && (a.key.Pair == nil || a.key.Pair.Form != der.RSAKey) {
		return nil
	}
	var material []byte
	err = der.WithKWP(a.aesKey, func(kwp *subtle.KWP) (err error) {
		material, err = kwp.Unwrap(a.wrapped)
		return err
	})
	if err != nil {
		return invalidMaterial()
	}
	if !inToken {
		return a.see(material)
	}
	// The token unwraps it again: it is seen here for as long as this takes.
	defer clear(material)
	_, err = readPrivate(a.key.Pair, material)
	return err
}

// readPrivate reads a private key, which must be one of the kind.
func readPrivate(kind *der.Kind, material []byte) (*der.PrivateKey, error) {
	k, err := der.ParsePKCS8(kind, material)
	if err != nil || kind.Form == der.RSAKey && !k.Consistent() {
		return nil, unfitMaterial()
	}
	return k, nil
}

// unwrapsInToken reports whether the token makes the right key of what is
// under the AES key.
func (a *arrival) unwrapsInToken() bool {
	p := a.Profile
	switch {
	case p.KeyWrap == 0 || a.outside:
		return false
	case a.key.Pair != nil:
		return p.UnwrapsPrivate[a.key.Pair.Form]
	}
	return p.KeyWrapSafe && (a.key.Length%8 == 0 || p.KeyWrapExact)
}

// see takes key material that has come into this process.
func (a *arrival) see(material []byte) error {
	a.material = material
	if a.key.Pair == nil {
		if uint(len(material)) != a.key.Length {
			return unfitMaterial()
		}
		return nil
	}
	var err error
	a.private, err = readPrivate(a.key.Pair, material)
	return err
}

func (a *arrival) clear() {
	clear(a.aesKey)
	clear(a.material)
}

// make makes a key of the material by a template.
func (a *arrival) make(s *token.Session, wrapping cryptoki.Object, t cryptoki.Template) (cryptoki.Object, error) {
	switch {
	case a.material != nil:
		if a.private != nil {
			t = a.Profile.Components(a.private, t)
		} else {
			t = t.Bytes(p11.CKA_VALUE, a.material)
		}
		defer clear(t)
		h, rv := s.CreateObject(s.Handle, t)
		return h, a.created(s, rv)
	case a.aesKey != nil:
		kek, err := a.kek(s)
		if err != nil {
			return 0, err
		}
		defer s.Destroy(kek)
		h, rv := s.UnwrapKey(s.Handle, cryptoki.Mechanism{Type: a.Profile.KeyWrap}, kek, a.wrapped, a.Profile.Unwrapped(t))
		return h, s.Check("C_UnwrapKey", rv)
	case a.algorithm.twice:
		o := token.OAEPHashes[a.algorithm.oaep]
		h, rv := s.UnwrapRSAAES(s.Handle, o.CKM, o.MGF, wrapping, a.in.Material, a.Profile.Unwrapped(t))
		return h, s.Check("C_UnwrapKey", rv)
	default:
		h, rv := s.UnwrapKey(s.Handle, token.OAEPHashes[a.algorithm.oaep].Mechanism(), wrapping, a.in.Material, a.Profile.Unwrapped(t))
		return h, s.Check("C_UnwrapKey", rv)
	}
}

// kek makes a session key of the AES key.
func (a *arrival) kek(s *token.Session) (cryptoki.Object, error) {
	t := a.Profile.SessionKey(p11.CKK_AES, 0, true, p11.CKA_UNWRAP, p11.CKA_WRAP).Bytes(p11.CKA_VALUE, a.aesKey)
	defer clear(t)
	h, rv := s.CreateObject(s.Handle, t)
	return h, s.Check("C_CreateObject", rv)
}

// withWrapping runs do with the wrapping key's handle, if that is needed.
func (a *arrival) withWrapping(ctx context.Context, do func(s *token.Session, wrapping cryptoki.Object) error) error {
	if !a.inToken() {
		return a.WithSession(ctx, func(s *token.Session) error { return do(s, 0) })
	}
	return a.WithKey(ctx, &a.in.Wrapping, a.wrapping, do)
}

// canary brings a secret key of known value the same way into a session object.
func (a *arrival) canary(ctx context.Context) error {
	known := probe.KnownKey[:token.KEKLength]
	c := *a
	switch {
	case a.material != nil:
		c.material, c.private = known, nil
	case a.aesKey != nil:
		err := der.WithKWP(a.aesKey, func(kwp *subtle.KWP) (err error) {
			c.wrapped, err = kwp.Wrap(known)
			return err
		})
		if err != nil {
			return err
		}
	default:
		in := *a.in
		var err error
		if in.Material, err = a.wrap(ctx, known); err != nil {
			return err
		}
		c.in = &in
	}
	return c.withWrapping(ctx, func(s *token.Session, wrapping cryptoki.Object) (err error) {
		for _, keyType := range []uint{p11.CKK_AES, p11.CKK_GENERIC_SECRET} { // a token may have one of them
			var h cryptoki.Object
			if h, err = c.make(s, wrapping, a.Profile.SessionKey(keyType, 0, true)); err == nil {
				s.Destroy(h)
				return nil
			}
		}
		return err
	})
}
