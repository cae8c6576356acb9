package pkcs11

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/probe"
	"cmkd/backends/pkcs11/internal/token"
)

// tryOut makes a session key of the material and finds out whether it is a key
// of the purpose, its public key, and its check value.
func (a *arrival) tryOut(ctx context.Context) (*backends.ImportKeyAnswer, error) {
	answer := &backends.ImportKeyAnswer{}
	err := a.withWrapping(ctx, func(s *token.Session, wrapping cryptoki.Object) error {
		h, err := a.make(s, wrapping, a.trialTemplate())
		if err != nil {
			return err
		}
		defer s.Destroy(h)
		if a.key.Pair == nil {
			if err := a.measure(s, h); err != nil {
				return err
			}
			answer.CheckValue, err = a.secretCheckValue(s, h)
			return err
		}
		if answer.PublicKey, err = a.examine(s, h); err != nil {
			return err
		}
		answer.CheckValue = publicCheckValue(answer.PublicKey)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// trialTemplate is the template of the session key: that of the purpose, as
// far as the trial allows. A secret key whose length the token does not tell
// is wrapped to be measured; an EC key signs to give its public key away.
func (a *arrival) trialTemplate() cryptoki.Template {
	u := *a.key
	switch {
	case u.Pair == nil && a.checksByCMAC():
		u.Uses, u.Mechanisms = []uint{p11.CKA_SIGN}, []uint{p11.CKM_AES_CMAC}
	case u.Pair != nil && u.Pair.Form == der.ECKey:
		u.Uses, u.Mechanisms = []uint{p11.CKA_SIGN}, token.SignMechanisms[der.ECKey]
	}
	if u.Pair == nil && !a.Profile.UnwrappedLength {
		return a.Profile.SessionKey(u.KeyType, 0, true, u.Uses...)
	}
	u.Length = 0
	return a.Profile.CMK(u, false, nil, nil)
}

// measure fails unless a secret key is as long as the purpose wants.
func (a *arrival) measure(s *token.Session, h cryptoki.Object) error {
	var right bool
	var err error
	switch {
	case a.material != nil:
		return nil // see looked at it
	case a.Profile.UnwrappedLength:
		var q cryptoki.Query
		q.AskULong(p11.CKA_VALUE_LEN)
		err = s.Attributes(h, &q)
		n, ok := q.ULong(p11.CKA_VALUE_LEN)
		right = ok && n == a.key.Length
	case a.aesKey != nil:
		right, err = a.wrapsToSame(s, h)
	default:
		right, err = a.wrapsToLength(s, h)
	}
	if err == nil && !right {
		return unfitMaterial()
	}
	return err
}

// wrapsToSame wraps a key again: only a key of exactly the length that the
// ciphertext says comes out the same (RFC 5649 is deterministic, and has the
// length in what it encrypts). SoftHSM2 pads a shorter one with zeros.
func (a *arrival) wrapsToSame(s *token.Session, h cryptoki.Object) (bool, error) {
	kek, err := a.kek(s)
	if err != nil {
		return false, err
	}
	defer s.Destroy(kek)
	again, err := s.Wrap(cryptoki.Mechanism{Type: a.Profile.KeyWrap}, kek, h, token.MaxWrapped)
	return bytes.Equal(again, a.wrapped) && uint(len(again)) == a.key.Length+8, err
}

// wrapsToLength wraps an AES key under a fresh key to see how long it is, to a
// multiple of 8 bytes. What is not an AES key at all fails in the cipher.
func (a *arrival) wrapsToLength(s *token.Session, h cryptoki.Object) (bool, error) {
	kek, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		a.Profile.SessionKey(p11.CKK_AES, token.KEKLength, true, p11.CKA_WRAP))
	if err := s.Check("C_GenerateKey", rv); err != nil {
		return false, err
	}
	defer s.Destroy(kek)
	wrapped, err := s.Wrap(cryptoki.Mechanism{Type: a.Profile.KeyWrap}, kek, h, token.MaxWrapped)
	return uint(len(wrapped)) == a.key.Length+8, err
}

// checkLabel is what check values are computed over, and what a key signs to
// show that it works.
var checkLabel = []byte("cmkd: check value of imported key material, version 1")

// checkIV is an IV that serves nothing else: it encrypts no plaintext, and
// always the same one, so that it comes twice under a key without harm. The
// IVs of ciphertexts are random and meet it with probability 2^-96.
var checkIV = []byte("cmkd check 1")

// secretCheckValue is the SHA-256 of what the key makes of checkLabel: a GCM
// tag, or an HMAC. Where the token chooses its IVs it is a CMAC.
func (a *arrival) secretCheckValue(s *token.Session, h cryptoki.Object) ([]byte, error) {
	out := make([]byte, 64)
	var r cryptoki.Result
	call := "C_Sign"
	switch {
	case a.key.KeyType != p11.CKK_AES:
		r = s.Sign(s.Handle, h, cryptoki.Mechanism{Type: a.key.Mechanisms[0]}, checkLabel, out)
	case a.checksByCMAC():
		r = s.Sign(s.Handle, h, cryptoki.Mechanism{Type: p11.CKM_AES_CMAC}, checkLabel, out)
	default:
		call = "C_Encrypt"
		r = s.EncryptGCM(s.Handle, h, bytes.Clone(checkIV), checkLabel, nil, out[:token.TagLength])
	}
	if err := s.Check(call, r.RV); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(out[:r.N])
	return sum[:], nil
}

func (a *arrival) checksByCMAC() bool { return a.key.KeyType == p11.CKK_AES && a.Profile.GCMIV }

// publicCheckValue is the check value of a private key.
func publicCheckValue(encoded []byte) []byte {
	sum := sha256.Sum256(encoded)
	return sum[:]
}

// examine finds the public key of a private key, and proves that the two
// belong together.
func (a *arrival) examine(s *token.Session, h cryptoki.Object) ([]byte, error) {
	k := a.key.Pair
	if name, err := s.Mismatch(k, h); err != nil || name != "" {
		if err == nil {
			err = unfitMaterial()
		}
		return nil, err
	}
	switch k.Form {
	case der.ECKey:
		return s.RecoverPublic(k, h)
	case der.RSAKey:
		return a.examineRSA(s, h)
	default:
		return a.examineEdwards(s, h)
	}
}

func (a *arrival) examineEdwards(s *token.Session, h cryptoki.Object) ([]byte, error) {
	encoded, err := a.edwardsPublic(s, h)
	if err != nil {
		return nil, err
	}
	return encoded, a.signsFor(s, h, encoded, der.Signings["ED25519_SHA_512"])
}

func (a *arrival) examineRSA(s *token.Session, h cryptoki.Object) ([]byte, error) {
	encoded, err := s.RSAPrivatePublic(a.key.Pair, h)
	switch {
	case token.RVOf(err) != p11.CKR_OK:
		return nil, err
	case err != nil:
		return nil, unfitMaterial()
	}
	if encoded == nil {
		return nil, token.Unsupported("CKA_PUBLIC_EXPONENT of an unwrapped private key")
	}
	public, err := der.ParsePublic(a.in.Key.Spec, encoded)
	if err != nil {
		return nil, unfitMaterial()
	}
	if key := public.Key.(*rsa.PublicKey); !der.FitExponent(key.E) || der.WeakModulus(key.N) {
		return nil, unfitMaterial()
	}
	if a.in.Key.Usage == backends.SignVerify {
		return encoded, a.signsFor(s, h, encoded, der.Signings["RSASSA_PKCS1_V1_5_SHA_256"])
	}
	return encoded, a.decryptsFor(s, h, public.Key.(*rsa.PublicKey))
}

// signsFor proves that a private key belongs to a public key.
func (a *arrival) signsFor(s *token.Session, h cryptoki.Object, encoded []byte, with *der.Signing) error {
	public, err := der.ParsePublic(a.in.Key.Spec, encoded)
	if err != nil {
		return unfitMaterial()
	}
	input := sha256.Sum256(checkLabel)
	signature, err := s.Signature(with, h, a.key.Pair, input[:])
	if err != nil {
		return err
	}
	if !with.Verify(public.Key, input[:], signature) {
		return unfitMaterial()
	}
	return nil
}

// decryptsFor is signsFor for a private key that decrypts: with the bare
// primitive, or OAEP in the token.
func (a *arrival) decryptsFor(s *token.Session, h cryptoki.Object, public *rsa.PublicKey) error {
	out := make([]byte, public.Size())
	if slices.Contains(a.key.Mechanisms, uint(p11.CKM_RSA_X_509)) {
		message := make([]byte, public.Size())
		copy(message[1:], checkLabel)
		e := big.NewInt(int64(public.E))
		c := new(big.Int).Exp(new(big.Int).SetBytes(message), e, public.N).FillBytes(make([]byte, len(message)))
		if err := s.RawRSA(h, c, out); err != nil {
			return err
		}
		if !bytes.Equal(out, message) {
			return unfitMaterial()
		}
		return nil
	}
	hash := token.OAEPHashes["RSAES_OAEP_SHA_256"]
	c, err := token.EncryptOAEP(public, hash, checkLabel)
	if err != nil {
		return err
	}
	r := s.Decrypt(s.Handle, h, hash.Mechanism(), c, out)
	if err := s.Check("C_Decrypt", r.RV); err != nil {
		return err
	}
	if !bytes.Equal(out[:r.N], checkLabel) {
		return unfitMaterial()
	}
	return nil
}

// EdwardsPublic finds the public key of an Ed25519 private key. Signatures do
// not give it away, so the token must, or the seed passed through this process.
func (a *arrival) edwardsPublic(s *token.Session, h cryptoki.Object) ([]byte, error) {
	if a.private != nil {
		return a.private.EdwardsPublic()
	}
	return s.EdwardsPublic(a.key.Pair, h)
}

// publicComponents appends the value of a public key to a template.
func publicComponents(p *token.Profile, k *der.Kind, t cryptoki.Template, encoded []byte) (cryptoki.Template, error) {
	public, err := der.ParsePublic(k.Spec, encoded)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "a public key just made does not parse: %v", err)
	}
	if key, ok := public.Key.(*rsa.PublicKey); ok {
		return t.Bytes(p11.CKA_MODULUS, key.N.Bytes()).
			Bytes(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(key.E)).Bytes()), nil
	}
	point, err := der.SplitPublic(k, encoded)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "a public key just made does not parse: %v", err)
	}
	return t.Bytes(p11.CKA_EC_PARAMS, p.Params(k)).Bytes(p11.CKA_EC_POINT, token.OctetString(point)), nil
}

// Wrap wraps key material by the algorithm, as a client does.
func (a *arrival) wrap(ctx context.Context, material []byte) ([]byte, error) {
	public, err := a.publicKey(ctx, &a.in.Wrapping, a.wrapping)
	if err != nil {
		return nil, err
	}
	key, hash := public.Key.(*rsa.PublicKey), token.OAEPHashes[a.algorithm.oaep]
	if !a.algorithm.twice {
		return token.EncryptOAEP(key, hash, material)
	}
	kwp, err := subtle.NewKWP(probe.KnownKey[:token.KEKLength])
	if err != nil {
		return nil, err
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		return nil, err
	}
	sealed, err := token.EncryptOAEP(key, hash, probe.KnownKey[:token.KEKLength])
	return append(sealed, wrapped...), err
}
