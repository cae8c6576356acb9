package pkcs11

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/simplelru"
	p11 "github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"cmkd/backends"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// parseRecipient checks a recipient's public key.
func parseRecipient(r *backends.Recipient) (*rsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(r.PublicKey)
	if err != nil {
		return nil, backends.Errorf(backends.InvalidRequest, "the recipient's public key is not a SubjectPublicKeyInfo")
	}
	public, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, backends.Errorf(backends.InvalidRequest, "the recipient's public key is not an RSA key")
	}
	if n := public.N.BitLen(); n < 2048 || n > 4096 || !der.FitExponent(public.E) || public.N.Bit(0) == 0 {
		return nil, backends.Errorf(backends.InvalidRequest,
			"the recipient's RSA key has %d bits and the exponent %d: it needs 2048 to 4096 bits and an odd exponent of %d to %d", n, public.E, der.MinExponent, der.MaxExponent)
	}
	return public, nil
}

// recipientHash is the OAEP hash that a recipient asks for.
func recipientHash(r *backends.Recipient) (token.OAEPHash, error) {
	h, ok := token.OAEPHashes[r.Algorithm]
	switch {
	case !ok:
		return h, backends.Errorf(backends.InvalidRequest, "no recipient algorithm %s", r.Algorithm)
	case r.CMS && r.Algorithm != cmsRecipientAlgorithm:
		return h, backends.Errorf(backends.InvalidRequest, "CMS for a recipient by %s: it is made by %s alone", r.Algorithm, cmsRecipientAlgorithm)
	}
	return h, nil
}

// sealToRecipient encrypts a plaintext that is in the plugin's memory anyway.
func sealToRecipient(r *backends.Recipient, plaintext []byte) ([]byte, error) {
	h, err := recipientHash(r)
	if err != nil {
		return nil, err
	}
	public, err := parseRecipient(r)
	if err != nil {
		return nil, err
	}
	switch {
	case r.CMS:
		return sealCMS(public, h, plaintext)
	case len(plaintext) <= h.Room(public.Size()):
		return token.EncryptOAEP(public, h, plaintext)
	}
	kek := make([]byte, token.KEKLength)
	defer clear(kek)
	if _, err := rand.Read(kek); err != nil {
		return nil, backends.Errorf(backends.Internal, "making a key encryption key: %v", err)
	}
	sealed, err := token.EncryptOAEP(public, h, kek)
	if err != nil {
		return nil, err
	}
	var wrapped []byte
	err = der.WithKWP(kek, func(kwp *subtle.KWP) (err error) {
		wrapped, err = kwp.Wrap(plaintext)
		return err
	})
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "wrapping for a recipient: %v", err)
	}
	return append(sealed, wrapped...), nil
}

// recipientKey is a recipient's public key as a session object.
type recipientKey struct {
	handle cryptoki.Object
	public *rsa.PublicKey
	size   int // of the modulus, in bytes
	uses   int // calls that hold it now
	// evicted: the last call that holds it destroys it.
	evicted bool
}

// cachedRecipients is how many recipients' keys stay in the token. A client
// makes one key per process, so few are in use at a time.
const cachedRecipients = 64

// recipientCache keeps the recipients' public keys on a session of its own, so
// that a key is parsed and sent to the token once.
type recipientCache struct {
	module *cryptoki.Module
	anchor cryptoki.Session

	mu   sync.Mutex // guards keys, what it holds, and calls on anchor
	keys *simplelru.LRU
}

func newRecipientCache(module *cryptoki.Module, anchor cryptoki.Session) (*recipientCache, error) {
	c := &recipientCache{module: module, anchor: anchor}
	var err error
	c.keys, err = simplelru.NewLRU(cachedRecipients, func(_, v any) {
		k := v.(*recipientKey)
		k.evicted = true
		if k.uses == 0 {
			c.destroy(k)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache of recipients: %w", err)
	}
	return c, nil
}

// Destroy is called with c.mu held. An object that stays costs some memory of
// the token until the anchor is closed.
func (c *recipientCache) destroy(k *recipientKey) { c.module.DestroyObject(c.anchor, k.handle) }

// hold returns the recipient's key; the caller gives it back to release.
func (c *recipientCache) hold(r *backends.Recipient) (*recipientKey, error) {
	name := sha256.Sum256(r.PublicKey)
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.keys.Get(name); ok {
		k := v.(*recipientKey)
		k.uses++
		return k, nil
	}
	public, err := parseRecipient(r)
	if err != nil {
		return nil, err
	}
	var h cryptoki.Object
	err = token.Blame(func() (err error) {
		h, err = c.create(public)
		return err
	}, func() error {
		known, err := c.create(&knownRecipient().PublicKey)
		if err == nil {
			c.module.DestroyObject(c.anchor, known)
		}
		return err
	}, errRecipient())
	if err != nil {
		return nil, err
	}
	k := &recipientKey{handle: h, public: public, size: public.Size(), uses: 1}
	c.keys.Add(name, k)
	return k, nil
}

// create is called with c.mu held.
func (c *recipientCache) create(public *rsa.PublicKey) (cryptoki.Object, error) {
	h, rv := c.module.CreateObject(c.anchor, token.RecipientTemplate(public))
	if rv != p11.CKR_OK {
		return 0, token.Failed("C_CreateObject", rv)
	}
	return h, nil
}

// errRecipient is the answer to a recipient's key that the token takes badly,
// while it takes others.
func errRecipient() error {
	return backends.Errorf(backends.InvalidRequest, "the token does not wrap to the recipient's public key")
}

// knownRecipient is a key that is known to be good. It is made when it is first
// needed: that takes some 50 ms.
var knownRecipient = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic("pkcs11: making an RSA key: " + err.Error()) // never: crypto/rand does not fail
	}
	return k
})

// knownRecipientDER is its SubjectPublicKeyInfo.
var knownRecipientDER = sync.OnceValue(func() []byte {
	encoded, err := x509.MarshalPKIXPublicKey(&knownRecipient().PublicKey)
	if err != nil {
		panic("pkcs11: encoding an RSA key: " + err.Error()) // never: it is one
	}
	return encoded
})

// wrapUnder wraps a key by OAEP under the recipient's.
func (t *Token) wrapUnder(s *token.Session, r *recipient, key cryptoki.Object) (sealed []byte, err error) {
	err = token.Blame(func() (err error) {
		sealed, err = s.Wrap(r.hash.Mechanism(), r.key.handle, key, r.key.size)
		return err
	}, func() error {
		known, err := t.recipients.hold(&backends.Recipient{PublicKey: knownRecipientDER(), Algorithm: r.Algorithm})
		if err != nil {
			return err
		}
		defer t.recipients.release(known)
		kek, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN}, t.Profile.SessionKey(p11.CKK_AES, token.KEKLength, true))
		if err := s.Check("C_GenerateKey", rv); err != nil {
			return err
		}
		defer s.Destroy(kek)
		_, err = s.Wrap(r.hash.Mechanism(), known.handle, kek, known.size)
		return err
	}, errRecipient())
	return sealed, err
}

func (c *recipientCache) release(k *recipientKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.uses--
	if k.evicted && k.uses == 0 {
		c.destroy(k)
	}
}

// recipient is whom a key of the token goes to, within one call.
type recipient struct {
	*backends.Recipient
	hash token.OAEPHash
	// key is nil if the token cannot wrap to the recipient, but what it gets may
	// be read into this process and encrypted here.
	key *recipientKey
}

// recipient checks that the token can wrap to to, or that it need not. nil gives
// nil. The caller ends with done.
func (t *Token) recipient(to *backends.Recipient) (*recipient, error) {
	if to == nil {
		return nil, nil //nolint:nilnil // a call need not have a recipient
	}
	h, err := recipientHash(to)
	if err != nil {
		return nil, err
	}
	if lacks := lacks(t.Profile, to); lacks != "" {
		if !to.ThroughPlugin {
			return nil, token.Unsupported(lacks)
		}
		_, err := parseRecipient(to) // before a key is made for it
		return &recipient{Recipient: to, hash: h}, err
	}
	k, err := t.recipients.hold(to)
	if err != nil {
		return nil, err
	}
	return &recipient{Recipient: to, hash: h, key: k}, nil
}

// lacks names the mechanism that the token needs to wrap to a recipient, and has
// not; "": none.
func lacks(p *token.Profile, to *backends.Recipient) string {
	switch {
	case !p.OAEP[to.Algorithm]:
		return token.OAEPHashes[to.Algorithm].Name
	case to.CMS && !p.WrapCBCPad:
		return "C_WrapKey with CKM_AES_CBC_PAD"
	}
	return ""
}

func (t *Token) done(r *recipient) {
	if r.wraps() {
		t.recipients.release(r.key)
	}
}

// wraps and reads report how a key goes to r: wrapped in the token, or read. Both
// are false without a recipient.
func (r *recipient) wraps() bool { return r != nil && r.key != nil }
func (r *recipient) reads() bool { return r != nil && r.key == nil }

// seal encrypts to r what was read for it, and gives it back only if the caller
// gets it in the clear as well.
func (r *recipient) seal(read []byte, readable bool) (sealed, plaintext []byte, err error) {
	sealed, err = sealToRecipient(r.Recipient, read)
	if err != nil || !readable {
		clear(read)
		read = nil
	}
	return sealed, read, err
}

// wrapTo wraps a key of length bytes (0: not known) to a recipient: as CMS if it
// wants that, by OAEP if it is short enough, else under a fresh AES-256 key, OAEP of that and then
// RFC 5649. The key does not leave the token in the clear.
//
// Where the token pads what it wraps by RFC 5649, a private key may reach the
// recipient with up to 7 zero bytes behind its DER form, which says where it
// ends; a secret key is refused.
func (t *Token) wrapTo(s *token.Session, r *recipient, key cryptoki.Object, length int) ([]byte, error) {
	if r.CMS {
		return t.wrapCMS(s, r, key)
	}
	if length > 0 && length <= r.hash.Room(r.key.size) {
		return t.wrapUnder(s, r, key)
	}
	if t.Profile.KeyWrap == 0 || length%8 != 0 && !t.Profile.KeyWrapExact {
		return nil, token.Unsupported("CKM_AES_KEY_WRAP_KWP for lengths that are not a multiple of 8")
	}
	kek, rv := s.GenerateKey(s.Handle, cryptoki.Mechanism{Type: p11.CKM_AES_KEY_GEN},
		t.Profile.SessionKey(p11.CKK_AES, token.KEKLength, true, p11.CKA_WRAP))
	if err := s.Check("C_GenerateKey", rv); err != nil {
		return nil, err
	}
	defer s.Destroy(kek)
	sealed, err := t.wrapUnder(s, r, kek)
	if err != nil {
		return nil, err
	}
	wrapped, err := s.Wrap(cryptoki.Mechanism{Type: t.Profile.KeyWrap}, kek, key, token.MaxWrapped)
	if err != nil {
		return nil, err
	}
	return append(sealed, wrapped...), nil
}
