package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
)

// Suite is an algorithm suite of the message format, by its number. All of
// them encrypt with AES-GCM, IVs of 12 and tags of 16 bytes.
//
// https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/algorithms-reference.html
type Suite uint16

// The suites that messages are written with. Both have 256-bit keys, derived
// by HKDF with SHA-512, and commit to the data key, so that no message opens
// under two keys.
const (
	// Committed authenticates all of the message, in pieces that can be
	// used as they are read.
	Committed Suite = 0x0478
	// Signed adds an ECDSA signature (P-384) at the end, by a key that the writer
	// makes for the message and forgets: who can open the message cannot
	// alter it for others. Only the end shows whether the signature is right.
	Signed Suite = 0x0578
)

// parameters are what a suite consists of.
type parameters struct {
	keyLen  int              // bytes of the data key and of the content key
	kdf     func() hash.Hash // nil: the data key is the content key
	commits bool             // message format version 2
	curve   elliptic.Curve   // nil: no signature
	digest  func() hash.Hash // of the signature
}

// suites are those of the format, the older ones for reading only.
var suites = map[Suite]parameters{
	0x0014:    {keyLen: 16},
	0x0046:    {keyLen: 24},
	0x0078:    {keyLen: 32},
	0x0114:    {keyLen: 16, kdf: sha256.New},
	0x0146:    {keyLen: 24, kdf: sha256.New},
	0x0178:    {keyLen: 32, kdf: sha256.New},
	0x0214:    {keyLen: 16, kdf: sha256.New, curve: elliptic.P256(), digest: sha256.New},
	0x0346:    {keyLen: 24, kdf: sha512.New384, curve: elliptic.P384(), digest: sha512.New384},
	0x0378:    {keyLen: 32, kdf: sha512.New384, curve: elliptic.P384(), digest: sha512.New384},
	Committed: {keyLen: 32, kdf: sha512.New, commits: true},
	Signed:    {keyLen: 32, kdf: sha512.New, commits: true, curve: elliptic.P384(), digest: sha512.New384},
}

// String returns the number as the documentation of AWS writes it.
func (s Suite) String() string { return fmt.Sprintf("0x%04X", uint16(s)) }

// Commits reports whether a message of the suite opens under one data key only.
func (s Suite) Commits() bool { return suites[s].commits }

// Signs reports whether messages of the suite end in a signature.
func (s Suite) Signs() bool { return suites[s].curve != nil }

// KeyLen is the length of the suite's data keys in bytes; 0 if it is not known.
func (s Suite) KeyLen() int { return suites[s].keyLen }

// known returns the parameters of the suite.
func (s Suite) known() (parameters, error) {
	p, ok := suites[s]
	if !ok {
		return p, fmt.Errorf("%w: unknown algorithm suite %s", ErrInvalid, s)
	}
	return p, nil
}

const (
	ivLen         = 12
	tagLen        = 16
	commitmentLen = 32
)

// derive returns the cipher of a message's header and content, and its
// commitment, nil in suites without.
func (s Suite) derive(dataKey, messageID []byte) (cipher.AEAD, []byte, error) {
	p, err := s.known()
	if err != nil {
		return nil, nil, err
	}
	if len(dataKey) != p.keyLen {
		return nil, nil, fmt.Errorf("data key of %d bytes, the suite %s needs %d", len(dataKey), s, p.keyLen)
	}
	key, commitment := dataKey, []byte(nil)
	info := binary.BigEndian.AppendUint16(nil, uint16(s))
	switch {
	case p.commits:
		if key, err = hkdf.Key(p.kdf, dataKey, messageID, string(info)+"DERIVEKEY", p.keyLen); err == nil {
			commitment, err = hkdf.Key(p.kdf, dataKey, messageID, "COMMITKEY", commitmentLen)
		}
	case p.kdf != nil:
		key, err = hkdf.Key(p.kdf, dataKey, nil, string(info)+string(messageID), p.keyLen)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("deriving the content key: %w", err)
	}
	if p.kdf != nil {
		defer clear(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCM(block)
	return aead, commitment, err
}
