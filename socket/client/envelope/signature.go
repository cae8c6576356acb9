package envelope

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// signatureContext is the name under which the encryption context has the
// public key of the signature, and with it each encrypted data key.
const signatureContext = "aws-crypto-public-key"

// maxSignature is more than a DER signature of P-384 has, in bytes.
const maxSignature = 128

// signer makes the signature of one message.
type signer struct {
	key  *ecdsa.PrivateKey
	hash hash.Hash
}

// newSigner makes a key pair for a message of the suite and returns its public
// half as the encryption context has it: base64 of the compressed point (SEC 1,
// 2.3.3). It returns nil for a suite without signatures.
func newSigner(p parameters) (*signer, string, error) {
	if p.curve == nil {
		return nil, "", nil
	}
	key, err := ecdsa.GenerateKey(p.curve, rand.Reader)
	if err != nil {
		return nil, "", err
	}
	point, err := key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		return nil, "", err
	}
	size := (len(point) - 1) / 2
	compressed := append([]byte{2 + point[2*size]&1}, point[1:1+size]...)
	return &signer{key, p.digest()}, base64.StdEncoding.EncodeToString(compressed), nil
}

// footer returns the end of a message: length and signature.
func (s *signer) footer() ([]byte, error) {
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, s.hash.Sum(nil))
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(signature))), signature...), nil
}

// verifier checks the signature of one message.
type verifier struct {
	key  *ecdsa.PublicKey // nil: there is none
	hash hash.Hash
}

// newVerifier takes the public key from the encryption context. A suite without
// signatures must have none there.
func newVerifier(p parameters, context map[string]string) (*verifier, error) {
	text, ok := context[signatureContext]
	if p.curve == nil {
		if ok {
			return nil, fmt.Errorf("%w: the encryption context has a signature's key, the suite no signature", ErrInvalid)
		}
		return &verifier{}, nil
	}
	point, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature's key in the encryption context: %w", ErrInvalid, err)
	}
	x, y := elliptic.UnmarshalCompressed(p.curve, point)
	if x == nil {
		return nil, fmt.Errorf("%w: the signature's key in the encryption context is not a point of %s", ErrInvalid, p.curve.Params().Name)
	}
	size := (p.curve.Params().BitSize + 7) / 8
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4
	x.FillBytes(uncompressed[1 : 1+size])
	y.FillBytes(uncompressed[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(p.curve, uncompressed)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature's key: %w", ErrInvalid, err)
	}
	return &verifier{key, p.digest()}, nil
}

// footer reads the end of a message and checks it.
func (v *verifier) footer(src io.Reader) error {
	var length [2]byte
	if _, err := io.ReadFull(src, length[:]); err != nil {
		return cut(err)
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxSignature {
		return fmt.Errorf("%w: signature of %d bytes", ErrInvalid, n)
	}
	signature := make([]byte, n)
	if _, err := io.ReadFull(src, signature); err != nil {
		return cut(err)
	}
	if !ecdsa.VerifyASN1(v.key, v.hash.Sum(nil), signature) {
		return fmt.Errorf("%w: the signature is wrong", ErrInvalid)
	}
	return nil
}

// cut says of an input that ends too early that it does.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: truncated", ErrInvalid)
	}
	return fmt.Errorf("reading: %w", err)
}
